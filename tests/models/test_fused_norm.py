"""Which norms use the kernel, and their equality with ordinary ones."""

import copy

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn

from focaldet import kernels
from focaldet.models import fused_norm
from focaldet.models.backbone import Backbone, freeze_batch_norm
from focaldet.models.batch_norm import SynchronisedBatchNorm, synchronise_batch_norm
from focaldet.models.fast_layers import with_fast_layers
from focaldet.models.fused_norm import FusedBatchNorm, GroupNormReLU

needs_kernels = pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="needs the C++ kernels")


@pytest.fixture
def by_kernel(monkeypatch):
    """The bounds of each batch norm that used the kernel."""
    calls = []

    def counting(x, weight, bias, eps, bounds):
        calls.append(bounds)
        return original(x, weight, bias, eps, bounds)

    original = fused_norm.batch_norm
    monkeypatch.setattr(fused_norm, "batch_norm", counting)
    return calls


@needs_kernels
@pytest.mark.parametrize("momentum", [0.1, 0.01])
@pytest.mark.parametrize(
    ("norm", "bounds"),
    [
        (nn.BatchNorm2d(6), (-torch.inf, torch.inf)),
        (BatchNormAct2d(6), (0, torch.inf)),
        (BatchNormAct2d(6, act_layer=nn.ReLU6), (0, 6)),
        (BatchNormAct2d(6, act_layer=nn.Hardswish), (-torch.inf, torch.inf)),
        (BatchNormAct2d(6, apply_act=False), (-torch.inf, torch.inf)),
    ],
)
def test_training_is_torchs(by_kernel, norm, bounds, momentum):
    torch.manual_seed(0)
    ordinary = copy.deepcopy(norm)
    ordinary.momentum = momentum
    nn.init.normal_(ordinary.weight)
    nn.init.normal_(ordinary.bias)
    (fast,) = replaced(copy.deepcopy(ordinary))
    assert type(fast) is FusedBatchNorm
    for step in range(3):
        x = torch.randn(2, 6, 9, 8) + step
        mine, theirs = (x.clone().requires_grad_() for _ in range(2))
        y, expected = fast(mine), ordinary(theirs)
        torch.testing.assert_close(y, expected)
        y.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    for name, parameter in ordinary.named_parameters():
        torch.testing.assert_close(fast.get_parameter(name).grad, parameter.grad, msg=name)
    torch.testing.assert_close(fast.state_dict(), ordinary.state_dict())
    assert by_kernel == [bounds] * 3


def replaced(*layers: nn.Module) -> nn.Sequential:
    net = nn.Sequential(*layers)
    with_fast_layers(net)
    return net


def test_evaluation_and_frozen_layers_use_the_running_statistics(by_kernel):
    (fast,) = replaced(BatchNormAct2d(6))
    fast.running_mean.fill_(2)
    x = torch.randn(2, 6, 5, 4)
    expected = nn.functional.batch_norm(x, fast.running_mean, fast.running_var, fast.weight, fast.bias).relu()
    torch.testing.assert_close(fast.eval()(x), expected)
    fast.train()
    freeze_batch_norm(fast)
    torch.testing.assert_close(fast(x), expected)
    assert by_kernel == []


def test_a_single_number_per_channel_is_too_few():
    (fast,) = replaced(nn.BatchNorm2d(6))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fast(torch.randn(1, 6, 1, 1))


def test_double_fake_and_exported_maps_are_left_to_torch(by_kernel):
    from torch._subclasses.fake_tensor import FakeTensorMode

    (fast,) = replaced(BatchNormAct2d(6))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert fast(torch.empty(1, 6, 20, 20)).shape == (1, 6, 20, 20)
    copy.deepcopy(fast).double()(torch.randn(1, 6, 4, 4, dtype=torch.float64))
    program = torch.export.export(fast.eval(), (torch.randn(1, 6, 20, 20),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators == {"aten.batch_norm.default", "aten.relu_.default"}
    assert by_kernel == []


def test_only_what_is_the_same_is_replaced_and_keeps_its_names():
    kept = [
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.BatchNorm2d(8, momentum=None),
        nn.BatchNorm1d(8),
        FrozenBatchNormAct2d(8),
        BatchNormAct2d(8, drop_layer=nn.Dropout2d),
        SynchronisedBatchNorm(8),
    ]
    net = nn.Sequential(*kept, nn.Sequential(nn.BatchNorm2d(8)))
    names = list(net.state_dict())
    with_fast_layers(net)
    assert [type(layer) for layer in net[:-1]] == [type(layer) for layer in kept]
    assert type(net[-1][0]) is FusedBatchNorm
    assert list(net.state_dict()) == names


def test_several_processes_use_the_synchronised_one():
    norm = synchronise_batch_norm(replaced(BatchNormAct2d(6)))[0]
    assert type(norm) is SynchronisedBatchNorm
    assert [type(child) for child in norm.children()] == [nn.Identity, nn.ReLU]


@pytest.mark.parametrize("name", ["regnetx_002", "tf_efficientnet_lite0", "resnet18"])
def test_a_network_trains_alike(name):
    torch.manual_seed(0)
    net = Backbone(name).train()
    before = copy.deepcopy(net)
    with_fast_layers(net)
    assert any(isinstance(layer, FusedBatchNorm) for layer in net.modules())
    images = torch.randn(2, 3, 96, 128)
    for a, b in zip(net(images), before(images), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    for key, buffer in before.named_buffers():
        torch.testing.assert_close(net.get_buffer(key), buffer, atol=1e-4, rtol=1e-4, msg=key)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_group_norm_with_relu_is_torchs(dtype, training):
    torch.manual_seed(0)
    norm = GroupNormReLU(4, 12).train(training).to(torch.float32 if dtype == torch.bfloat16 else dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(3, 12, 7, 5) + 1).to(dtype)
    mine, theirs = (x.clone().requires_grad_() for _ in range(2))
    y, expected = norm(mine), nn.functional.group_norm(theirs, 4, norm.weight, norm.bias, norm.eps).relu()
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-1 if dtype == torch.bfloat16 else 1e-4, rtol=1e-2)
