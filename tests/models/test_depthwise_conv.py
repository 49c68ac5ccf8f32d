"""Which depthwise convolutions use the kernel for derivatives, and their equality with ordinary ones."""

import copy
import functools

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from focaldet import kernels
from focaldet.exporting.same_padding import SameConvolutionOf, conv2d_same, with_same_convolutions
from focaldet.models import depthwise_conv
from focaldet.models.backbone import Backbone
from focaldet.models.depthwise_conv import DepthwiseConv
from focaldet.models.fast_layers import with_fast_layers

needs_kernels = pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="needs the C++ kernels")


@pytest.fixture
def by_kernel(monkeypatch):
    """Stride and padding of each convolution that used the kernel."""
    calls = []

    def counting(x, weight, bias, stride, padding):
        calls.append((stride, padding))
        return original(x, weight, bias, stride, padding)

    original = depthwise_conv.depthwise_conv
    monkeypatch.setattr(depthwise_conv, "depthwise_conv", counting)
    return calls


def conv(side: int, stride: int = 1) -> DepthwiseConv:
    return DepthwiseConv(nn.Conv2d(8, 8, side, stride, side // 2, groups=8))


@needs_kernels
@pytest.mark.parametrize(
    ("side", "stride", "dtype", "expected"),
    [
        (3, 1, torch.float32, []),
        (3, 2, torch.float32, []),
        (5, 1, torch.float32, [(1, 2)]),
        (7, 2, torch.float32, [(2, 3)]),
        (3, 1, torch.bfloat16, []),
        (3, 2, torch.bfloat16, [(2, 1)]),
        (5, 1, torch.bfloat16, [(1, 2)]),
        (5, 1, torch.float64, []),
    ],
)
def test_the_kernel_is_used_where_it_pays(by_kernel, side, stride, dtype, expected):
    layer, x = conv(side, stride).to(dtype), torch.randn(1, 8, 20, 20, dtype=dtype)
    output = layer(x)
    assert by_kernel == expected
    assert torch.equal(output, nn.functional.conv2d(x, layer.weight, layer.bias, stride, side // 2, groups=8))


@needs_kernels
def test_autocast_computes_in_bfloat16(by_kernel):
    layer, x = conv(5), torch.randn(1, 8, 20, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
        expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=2, groups=8)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    assert by_kernel == [(1, 2)]
    output.sum().backward()
    assert layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32


def test_inference_and_frozen_layers_are_left_to_torch(by_kernel):
    layer, x = conv(5), torch.randn(1, 8, 20, 20)
    with torch.no_grad():
        layer(x)
    layer.requires_grad_(False)(x)
    assert by_kernel == []


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_fake_tensors_and_forward_mode_are_left_to_torch(by_kernel):
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer = conv(5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(torch.empty(1, 8, 20, 20)).shape == (1, 8, 20, 20)
    x, tangent = torch.randn(1, 8, 20, 20), torch.ones(8)
    call = functools.partial(torch.func.functional_call, layer)
    _, change = torch.func.jvp(
        lambda bias: call({"weight": layer.weight, "bias": bias}, (x,)), (layer.bias,), (tangent,)
    )
    torch.testing.assert_close(change, torch.ones(1, 8, 20, 20))
    assert by_kernel == []


def test_an_export_has_a_convolution(by_kernel):
    program = torch.export.export(conv(5), (torch.randn(1, 8, 20, 20),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators == {"aten.conv2d.default"}
    assert by_kernel == []


def test_only_what_is_the_same_is_replaced_and_keeps_its_parameters():
    torch.manual_seed(0)
    kept = [
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=4),
        nn.Conv2d(8, 16, 5, padding=2, groups=8),
        nn.Conv2d(16, 16, (3, 5), padding=(1, 2), groups=16),
        nn.Conv2d(16, 16, 5, padding=4, dilation=2, groups=16),
        nn.Conv2d(16, 16, 5, padding="same", groups=16),
        nn.Conv2d(16, 16, 5, padding=2, padding_mode="reflect", groups=16),
        nn.Conv2d(16, 16, 9, padding=4, groups=16),
    ]
    replaced = [
        nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16),
        nn.Conv2d(16, 16, 5, padding=1, groups=16, bias=False),
        Conv2dSame(16, 16, 5, stride=2, groups=16),
    ]
    net = nn.Sequential(*kept, *replaced)
    before, names = copy.deepcopy(net), list(net.state_dict())
    with_fast_layers(net)
    assert [type(layer) for layer in net] == [type(layer) for layer in kept] + [DepthwiseConv] * 3
    assert list(net.state_dict()) == names
    x = torch.randn(2, 8, 40, 33)
    ours, theirs = net(x), before(x)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for name, parameter in before.named_parameters():
        torch.testing.assert_close(net.get_parameter(name).grad, parameter.grad, msg=name)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "hgnetv2_b0"])
def test_a_network_keeps_its_maps_and_derivatives(name):
    torch.manual_seed(0)
    net = Backbone(name).eval()
    before = copy.deepcopy(net)
    with_fast_layers(net)
    assert any(isinstance(layer, DepthwiseConv) for layer in net.modules())
    images = torch.randn(1, 3, 70, 90)
    for a, b in zip(net(images), before(images), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    for each in (net, before):
        sum(x.square().mean() for x in each(images)).backward()
    for key, parameter in before.named_parameters():
        if parameter.grad is not None:
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(net.get_parameter(key).grad, parameter.grad, atol=1e-3 * scale, rtol=1e-3)


def test_an_export_knows_the_padding_of_tensorflow():
    net = nn.Sequential(Conv2dSame(16, 16, 5, stride=2, groups=16))
    with_fast_layers(net)
    found = with_same_convolutions(net, conv2d_same)
    assert type(found[0]) is SameConvolutionOf
    x = torch.randn(1, 16, 21, 18)
    torch.testing.assert_close(found(x), net(x))
