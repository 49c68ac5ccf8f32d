"""The derivatives of a depthwise convolution equal those of ``conv2d``, in both dtypes, at any size and stride."""

import pytest
import torch
from fused_cases import needs_cpu_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from focaldet.kernels.depthwise import depthwise_conv

pytestmark = needs_cpu_kernels


def inputs(images: int, channels: int, height: int, width: int, side: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    values = (
        torch.randn(images, channels, height, width),
        torch.randn(channels, 1, side, side) / side,
        torch.randn(channels),
    )
    return [value.to(dtype).requires_grad_() for value in values]


def in_double(leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.detach().double().requires_grad_() for leaf in leaves]


@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(1, 3),
    channels=st.integers(2, 40),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    side=st.sampled_from([3, 5, 7]),
    stride=st.integers(1, 9),
    padding=st.integers(0, 4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
)
def test_derivatives_are_those_of_conv2d(images, channels, height, width, side, stride, padding, dtype, channels_last):
    if min(height, width) + 2 * padding < side:
        return
    leaves = inputs(images, channels, height, width, side, dtype)
    x = leaves[0].to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    output = depthwise_conv(x, *leaves[1:], stride, padding)
    exact, wide = in_double(leaves), in_double([leaf.abs() for leaf in leaves])
    expected = conv2d(*exact, stride, padding, groups=channels)
    assert output.shape == expected.shape
    grad = torch.randn_like(output)
    found = torch.autograd.grad(output, leaves, grad)
    sizes = conv2d(*wide, stride, padding, groups=channels)
    terms = torch.autograd.grad(sizes, wide, grad.double().abs())
    for a, b, term in zip(found, torch.autograd.grad(expected, exact, grad.double()), terms, strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        # Sums in float32, whose roundings are those of the terms; then one rounding of the result.
        assert ((a - b).abs() <= 1e-6 * term + torch.finfo(dtype).eps * b.abs()).all()


def test_bits_do_not_depend_on_the_number_of_threads():
    leaves = inputs(5, 37, 23, 17, 5, torch.float32)
    grad, found, before = torch.randn(5, 37, 12, 9), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(depthwise_conv(*leaves, 2, 2), leaves[:2], grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_nan_and_infinity_stay():
    x, weight, _ = inputs(1, 16, 9, 9, 5, torch.bfloat16)
    grad = torch.zeros(1, 16, 9, 9, dtype=torch.bfloat16)
    grad[0, 3, 4, 4], grad[0, 7, 4, 4] = torch.nan, torch.inf
    found, _ = torch.autograd.grad(depthwise_conv(x, weight, None, 1, 2), (x, weight), grad)
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[2:7, 2:7] = True
    assert torch.equal(found[0, 3].isnan(), inside)
    assert torch.equal(found[0, 7].isinf(), inside)
    assert found[0, [0, 1, 2, 4, 5, 6, *range(8, 16)]].count_nonzero() == 0


def test_second_derivatives_and_batches_of_gradients():
    leaves = in_double(inputs(2, 6, 8, 7, 5, torch.float32))
    x, weight, bias = (leaf.detach().float().requires_grad_() for leaf in leaves)
    ours = _second_derivative(depthwise_conv(x, weight, bias, 2, 2), x, weight)
    exact = _second_derivative(conv2d(*leaves, 2, 2, groups=6), *leaves[:2])
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-3)
    output = depthwise_conv(x, weight, bias, 2, 2)
    grads = torch.randn(3, *output.shape)
    (batched,) = torch.autograd.grad(output, x, grads, is_grads_batched=True, retain_graph=True)
    for grad, found in zip(grads, batched, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(output, x, grad, retain_graph=True)[0])


def _second_derivative(output: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    (first,) = torch.autograd.grad(output.square().sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return second


@pytest.mark.parametrize(
    ("grad", "filters", "stride", "padding", "problem"),
    [
        ((1, 4, 4, 8), (25, 8), 2, 2, "grad: does not fit"),
        ((1, 5, 5, 8), (16, 8), 2, 2, "expected 3 x 3, 5 x 5 or 7 x 7"),
        ((1, 5, 5, 8), (25, 7), 2, 2, "filter: expected contiguous float32"),
        ((1, 5, 5, 8), (25, 8), 0, 2, "positive stride"),
    ],
)
def test_the_operator_rejects_what_does_not_fit(grad, filters, stride, padding, problem):
    with pytest.raises(RuntimeError, match=problem):
        torch.ops.focaldet.depthwise_backward(
            torch.zeros(grad), torch.zeros(1, 9, 9, 8), torch.zeros(filters), stride, padding
        )
