"""Which convolutions of a detector use Winograd's algorithm, and their equality with ordinary ones."""

import copy
import functools

import pytest
import torch
from torch import nn

from focaldet import kernels
from focaldet.models import conv3x3
from focaldet.models.conv3x3 import Conv3x3
from focaldet.models.fast_layers import with_fast_layers

needs_kernels = pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="needs the C++ kernels")


@pytest.fixture
def by_winograd(monkeypatch):
    """The numbers of maps of each convolution that used Winograd's algorithm."""
    calls = []

    def counting(maps, weight, bias):
        calls.append(len(maps))
        return original(maps, weight, bias)

    original = conv3x3.conv3x3
    monkeypatch.setattr(conv3x3, "conv3x3", counting)
    return calls


@needs_kernels
@pytest.mark.parametrize(
    ("channels", "out", "side", "dtype", "expected"),
    [
        (32, 32, 20, torch.float32, [1]),
        (32, 32, 16, torch.float32, []),  # 16 tiles
        (31, 32, 20, torch.float32, []),
        (32, 3, 20, torch.float32, []),
        (32, 32, 20, torch.float64, []),
        (32, 32, 20, torch.bfloat16, []),
    ],
)
def test_winograd_is_used_where_it_pays(by_winograd, channels, out, side, dtype, expected):
    conv = Conv3x3(channels, out).to(dtype)
    x = torch.randn(1, channels, side, side, dtype=dtype)
    y = conv(x)
    assert by_winograd == expected
    assert y.dtype == dtype
    torch.testing.assert_close(y, nn.functional.conv2d(x, conv.weight, conv.bias, padding=1), atol=1e-4, rtol=1e-4)


@needs_kernels
def test_small_levels_go_along_with_a_large_one(by_winograd):
    conv = Conv3x3(32, 32)
    conv.of_levels([torch.randn(1, 32, side, side) for side in (20, 10, 5, 3, 2)])
    assert by_winograd == [5]


def test_mixed_precision_is_left_to_torch(by_winograd):
    conv = Conv3x3(32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.randn(1, 32, 20, 20)).dtype == torch.bfloat16
    assert by_winograd == []


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_fake_tensors_and_forward_mode_are_left_to_torch(by_winograd):
    from torch._subclasses.fake_tensor import FakeTensorMode

    conv = Conv3x3(32, 32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert conv(torch.empty(1, 32, 20, 20)).shape == (1, 32, 20, 20)
    x, tangent = torch.randn(1, 32, 20, 20), torch.ones(32)
    call = functools.partial(torch.func.functional_call, conv)
    _, change = torch.func.jvp(lambda bias: call({"weight": conv.weight, "bias": bias}, (x,)), (conv.bias,), (tangent,))
    torch.testing.assert_close(change, torch.ones(1, 32, 20, 20))
    assert by_winograd == []


def test_an_export_has_a_convolution(by_winograd):
    program = torch.export.export(Conv3x3(32, 32), (torch.randn(1, 32, 20, 20),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators == {"aten.conv2d.default"}
    assert by_winograd == []


def test_only_what_is_the_same_is_replaced_and_keeps_its_parameters():
    torch.manual_seed(0)
    kept = [
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 8, 3, padding=1),
    ]
    net = nn.Sequential(*kept, nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False)))
    before, names = copy.deepcopy(net), list(net.state_dict())
    with_fast_layers(net)
    assert [type(layer) for layer in net[:-1]] == [type(layer) for layer in kept]
    assert type(net[-1][0]) is Conv3x3
    assert list(net.state_dict()) == names
    x = torch.randn(2, 8, 30, 30)
    torch.testing.assert_close(net(x), before(x), atol=1e-5, rtol=1e-5)
