"""The 3 x 3 convolution by tiles equals ``conv2d``: values and derivatives, any size, batch and number of levels."""

import math
from collections.abc import Callable

import pytest
import torch
from fused_cases import needs_cpu_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from focaldet.kernels import convolution
from focaldet.kernels.convolution import conv3x3

pytestmark = needs_cpu_kernels

Numbers = dict[str, list[Tensor]]


def by_conv2d(maps: list[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    return [conv2d(x, weight, bias, padding=1) for x in maps]


def values_and_derivatives(convolve, maps, weight, bias, grads) -> Numbers:
    """Of the sum of all outputs, each times its own number."""
    leaves = [x.detach().clone().requires_grad_() for x in (*maps, weight, *([] if bias is None else [bias]))]
    inputs, (kernel, *offset) = leaves[: len(maps)], leaves[len(maps) :]
    outputs = convolve(inputs, kernel, offset[0] if offset else None)
    derivatives = torch.autograd.grad(outputs, leaves, grads)
    return {
        "outputs": [x.detach() for x in outputs],
        "of the maps": list(derivatives[: len(maps)]),
        "of the weight": [derivatives[len(maps)]],
        "of the bias": list(derivatives[len(maps) + 1 :]),
    }


def assert_is_conv2d(sizes: list[tuple[int, int, int]], channels: int, out: int, *, bias: bool = True) -> None:
    """Maps of so many images, height and width: within 32 roundings of what float64 gives, where conv2d itself takes
    two. A rounding is of the sum of the products' sizes: the sum itself may come to nothing."""
    torch.manual_seed(0)
    maps = [torch.randn(images, channels, height, width) for images, height, width in sizes]
    weight = torch.randn(out, channels, 3, 3) / (9 * channels) ** 0.5
    offset = torch.randn(out) if bias else None
    grads = [torch.randn(images, out, height, width) for images, height, width in sizes]
    ours = values_and_derivatives(conv3x3, maps, weight, offset, grads)

    def in_double(change: Callable[[Tensor], Tensor]) -> Numbers:
        kernel, shift = change(weight.double()), None if offset is None else change(offset.double())
        values, ends = [[change(x.double()) for x in some] for some in (maps, grads)]
        return values_and_derivatives(by_conv2d, values, kernel, shift, ends)

    exact, added = in_double(Tensor.clone), in_double(Tensor.abs)
    for name, expected in exact.items():
        for a, b, terms in zip(ours[name], expected, added[name], strict=True):
            assert a.shape == b.shape
            assert a.dtype == torch.float32
            assert (a - b).abs().max() <= 32 * 1.2e-7 * terms.max(), name


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 21), st.integers(1, 21)), min_size=1, max_size=4),
    channels=st.integers(1, 70),
    out=st.integers(1, 70),
    bias=st.booleans(),
)
def test_it_is_conv2d_and_so_are_its_derivatives(sizes, channels, out, bias):
    assert_is_conv2d(sizes, channels, out, bias=bias)


def test_it_is_conv2d_where_a_map_takes_several_turns(monkeypatch):
    monkeypatch.setattr(convolution, "TILES", 7)
    assert_is_conv2d([(2, 13, 9), (1, 1, 1), (3, 8, 20)], 33, 17)


@pytest.mark.slow
def test_it_is_conv2d_at_the_size_of_a_photo():
    assert_is_conv2d([(1, 100, 167), (1, 50, 84)], 256, 80)


def test_any_order_of_memory_is_taken():
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 3, 3)
    plain = torch.randn(2, 8, 12, 10)
    turned = torch.randn(12, 10, 8, 2).permute(3, 2, 0, 1)
    part = torch.randn(2, 16, 12, 20)[:, ::2, :, ::2]
    for x in (plain, turned, part, plain.to(memory_format=torch.channels_last)):
        for kernel in (weight, weight.to(memory_format=torch.channels_last)):
            (ours,) = conv3x3([x], kernel, None)
            torch.testing.assert_close(ours, conv2d(x, weight, padding=1), atol=1e-4, rtol=0)
            assert ours.is_contiguous(memory_format=torch.channels_last)


def test_its_result_may_be_changed_in_place():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(4, 4, 3, 3, requires_grad=True)
    (ours,) = conv3x3([x], weight, None)
    expected = conv2d(x, weight, padding=1)
    grads = [torch.autograd.grad(y.relu_().sum(), (x, weight)) for y in (ours, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_only_what_is_asked_for_is_derived():
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3, requires_grad=True)
    bias = torch.zeros(4, requires_grad=True)
    (output,) = conv3x3([x], weight, bias)
    output.sum().backward()
    assert x.grad is None
    assert bias.grad.tolist() == [64.0] * 4
    frozen, moving = weight.detach(), x.clone().requires_grad_()
    (output,) = conv3x3([moving], frozen, None)
    output.sum().backward()
    assert moving.grad is not None


@pytest.mark.parametrize(("channels", "out"), [(40, 40), (256, 80), (33, 70)])
def test_any_number_of_threads_gives_the_same_bits(channels, out):
    torch.manual_seed(0)
    maps = [torch.randn(2, channels, 30, 30), torch.randn(2, channels, 9, 11)]
    weight, bias = torch.randn(out, channels, 3, 3), torch.randn(out)
    grads = [torch.randn(2, out, 30, 30), torch.randn(2, out, 9, 11)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(values_and_derivatives(conv3x3, maps, weight, bias, grads))
    finally:
        torch.set_num_threads(before)
    for again in found[1:]:
        for name, numbers in found[0].items():
            assert all(torch.equal(a, b) for a, b in zip(numbers, again[name], strict=True)), name


EXTREME = [math.nan, math.inf, -3e38, 1e30, 66_000.0]


@pytest.mark.parametrize("extreme", EXTREME)
def test_what_is_extreme_in_a_map_reaches_what_conv2d_lets_it_reach(extreme):
    torch.manual_seed(0)
    maps, weight, bias = [torch.randn(2, 8, 12, 9), torch.randn(1, 8, 7, 7)], torch.randn(8, 8, 3, 3), torch.randn(8)
    maps[0][1, 3, 5, 5] = extreme
    grads = [torch.randn(x.shape) for x in maps]
    assert_extremes_are_conv2ds(maps, weight, bias, grads)
    far = torch.ones(2, 8, 12, 9, dtype=torch.bool)
    far[1, :, 4:7, 4:7] = False
    (ours, _), (theirs, _) = conv3x3(maps, weight, bias), by_conv2d(maps, weight, bias)
    torch.testing.assert_close(ours[far], theirs[far], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("extreme", EXTREME)
def test_what_is_extreme_in_the_weight_or_a_gradient_reaches_what_conv2d_lets_it_reach(extreme):
    torch.manual_seed(0)
    maps, weight, bias = [0.1 * torch.rand(2, 8, 12, 9), torch.rand(1, 8, 7, 7)], torch.rand(8, 8, 3, 3), None
    grads = [torch.randn(x.shape) for x in maps]
    spoiled = weight.clone()
    spoiled[2, 3, 0, 0] = extreme
    assert_extremes_are_conv2ds(maps, spoiled, bias, grads)
    grads[1][0, 3, 5, 5] = extreme
    assert_extremes_are_conv2ds(maps, weight, bias, grads)


def assert_extremes_are_conv2ds(maps: list[Tensor], weight: Tensor, bias: Tensor | None, grads: list[Tensor]) -> None:
    ours, theirs = (values_and_derivatives(convolve, maps, weight, bias, grads) for convolve in (conv3x3, by_conv2d))
    for name, expected in theirs.items():
        for a, b in zip(ours[name], expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_the_largest_number_that_goes_by_tiles_leaves_its_rounding_in_its_tiles():
    torch.manual_seed(0)
    x, weight = torch.rand(1, 4, 12, 12), torch.rand(4, 4, 3, 3)
    x[0, 2, 5, 5] = convolution.LIMIT
    (ours,), (exact,) = conv3x3([x], weight, None), by_conv2d([x.double()], weight.double(), None)
    error = (ours - exact).abs()
    spoiled = error > 1e-4
    assert spoiled.any(dim=1).any()
    near = torch.zeros_like(spoiled)
    near[:, :, 4:8, 4:8] = True
    assert not (spoiled & ~near).any()
    assert error.max() <= 32 * 1.2e-7 * 9 * convolution.LIMIT


def test_several_gradients_at_once():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(4, 4, 3, 3)
    (output,) = conv3x3([x], weight, None)
    grads = torch.randn(3, *output.shape)
    (together,) = torch.autograd.grad(output, x, grads, is_grads_batched=True, retain_graph=True)
    singly = [torch.autograd.grad(output, x, grad, retain_graph=True)[0] for grad in grads]
    torch.testing.assert_close(together, torch.stack(singly), rtol=1e-4, atol=1e-4)


def test_second_derivatives_are_those_of_conv2d():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3), torch.randn(4)
    found = []
    for convolve in (conv3x3, by_conv2d):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        (output,) = convolve(leaves[:1], *leaves[1:])
        first = torch.autograd.grad(output.pow(3).sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(grad.pow(2).sum() for grad in first), leaves))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_tiles_outside_of_a_map_are_refused():
    x, tiles = torch.zeros(1, 8, 8, 3), torch.zeros(36, 4, 3)
    ops = torch.ops.focaldet
    with pytest.raises(RuntimeError, match="no such tiles"):
        ops.pixels_to_tiles(x, tiles, 1, 4, 0)
    with pytest.raises(RuntimeError, match="no place"):
        ops.gradient_to_tiles(x, tiles, 0, 4, 1)
    with pytest.raises(RuntimeError, match="tiles: expected"):
        ops.tiles_to_pixels(tiles[:, :, :2], None, x, 0, 4, 0)
    with pytest.raises(RuntimeError, match="bias: expected 3 elements"):
        ops.tiles_to_pixels(tiles, torch.zeros(2), x, 0, 4, 0)
