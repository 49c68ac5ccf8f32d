"""The fused batch and group norms equal torch's in float64: values, statistics, derivatives, with and without ReLU."""

import pytest
import torch
from fused_cases import needs_cpu_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from focaldet.kernels.normalise import ANY, RELU, batch_norm, group_norm

pytestmark = needs_cpu_kernels

RELU6 = (0.0, 6.0)


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, bounds: tuple[float, float]) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps).clamp(*bounds)


def inputs(images: int, channels: int, height: int, width: int, dtype: torch.dtype, mean: float = 3.0) -> list[Tensor]:
    torch.manual_seed(0)
    x = (torch.randn(images, channels, height, width) * (0.2 + torch.rand(1, channels, 1, 1)) + mean).to(dtype)
    return [x.requires_grad_(), torch.randn(channels).requires_grad_(), torch.randn(channels).requires_grad_()]


def in_double(leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.detach().double().requires_grad_() for leaf in leaves]


@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 3, 7, 16, 24, 56, 368, 600]),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    bounds=st.sampled_from([ANY, RELU, RELU6]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
)
def test_batch_norm_is_torchs(images, channels, height, width, bounds, dtype, channels_last):
    leaves = inputs(images, channels, height, width, dtype)
    x = leaves[0].to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    y, mean, variance = batch_norm(x, *leaves[1:], 1e-5, bounds)
    exact = leaves[0].detach().double()
    torch.testing.assert_close(mean.double(), exact.mean(dim=(0, 2, 3)), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(variance.double(), exact.var(dim=(0, 2, 3), correction=0), atol=1e-9, rtol=1e-4)
    wide = in_double(leaves)
    assert_same(y, leaves, by_torch(*wide, 1e-5, ANY), wide, bounds)


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 5),
    groups=st.sampled_from([1, 2, 5, 32]),
    per_group=st.integers(1, 9),
    height=st.integers(2, 30),
    width=st.integers(2, 30),
    bounds=st.sampled_from([ANY, RELU]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_group_norm_is_torchs(images, groups, per_group, height, width, bounds, dtype):
    leaves = inputs(images, groups * per_group, height, width, dtype)
    wide = in_double(leaves)
    y = group_norm(leaves[0], groups, *leaves[1:], 1e-5, bounds)
    assert_same(y, leaves, F.group_norm(wide[0], groups, *wide[1:], 1e-5), wide, bounds)


def assert_same(y: Tensor, leaves: list[Tensor], free: Tensor, wide: list[Tensor], bounds: tuple[float, float]) -> None:
    """Outputs and derivatives, given the output in float64 before the activation."""
    expected, dtype = free.clamp(*bounds), y.dtype
    eps = torch.finfo(dtype).eps
    assert dtype == leaves[0].dtype
    assert ((y - expected).abs() <= 1e-4 + eps * expected.abs()).all()
    # No gradient at the corners of the activation, where one rounding decides.
    near = ((free - torch.tensor(bounds).clamp(-1e30, 1e30).view(2, 1, 1, 1, 1)).abs() < 1e-3).any(dim=0)
    grad = torch.randn(free.shape).masked_fill(near, 0).to(dtype)
    found, wanted = torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, wide, grad.double())
    assert found[0].dtype == dtype
    largest = grad.abs().max().double()
    # The terms of the first may cancel. An image or group of few pixels may have a tiny variance.
    factor = wide[1].detach().abs() * 10
    assert ((found[0] - wanted[0]).abs() <= eps * wanted[0].abs() + 1e-4 * largest * factor.view(1, -1, 1, 1)).all()
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert ((a - b).abs() <= 1e-5 * b.abs() + 1e-4 * largest * free[:, 0].numel()).all()


def test_a_mean_far_from_zero_costs_no_digits():
    leaves = inputs(2, 8, 30, 30, torch.float32, mean=1e4)
    _, mean, variance = batch_norm(*leaves, 1e-5)
    exact = leaves[0].detach().double()
    torch.testing.assert_close(mean.double(), exact.mean(dim=(0, 2, 3)), rtol=1e-7, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(dim=(0, 2, 3), correction=0), rtol=1e-6, atol=0)


def test_bits_do_not_depend_on_the_number_of_threads():
    leaves, grad = inputs(5, 37, 63, 57, torch.bfloat16), torch.randn(5, 37, 63, 57).bfloat16()
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            y, mean, variance = batch_norm(*leaves, 1e-5, RELU)
            found.append([y, mean, variance, *torch.autograd.grad(y, leaves, grad)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bounds", [ANY, RELU, RELU6])
def test_nan_and_infinity_spoil_their_channel_alone(bounds):
    leaves = inputs(2, 4, 9, 9, torch.float32)
    with torch.no_grad():
        leaves[0][0, 1, 2, 3], leaves[0][0, 2, 2, 3] = torch.nan, torch.inf
    y, *_ = batch_norm(*leaves, 1e-5, bounds)
    assert y[:, 1:3].isnan().all()
    assert torch.equal(y[:, [0, 3]], batch_norm(*inputs(2, 4, 9, 9, torch.float32), 1e-5, bounds)[0][:, [0, 3]])
    found, *_ = torch.autograd.grad(y.sum(), leaves)
    assert found[:, 1:3].isnan().all()
    assert found[:, [0, 3]].isfinite().all()


def test_second_derivatives_and_batches_of_gradients():
    leaves = inputs(2, 6, 8, 7, torch.float32)
    y, expected = batch_norm(*leaves, 1e-5, RELU)[0], by_torch(*(exact := in_double(leaves)), 1e-5, RELU)
    for a, b in zip(_second_derivatives(y, leaves), _second_derivatives(expected, exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)
    y, *_ = batch_norm(*leaves, 1e-5)
    grads = torch.randn(3, *y.shape)
    (batched,) = torch.autograd.grad(y, leaves[0], grads, is_grads_batched=True, retain_graph=True)
    for grad, found in zip(grads, batched, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(y, leaves[0], grad, retain_graph=True)[0])


def _second_derivatives(y: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    (first,) = torch.autograd.grad(y.pow(3).sum(), leaves[1], create_graph=True)
    return torch.autograd.grad(first.square().sum(), leaves)


@pytest.mark.parametrize(
    ("x", "weight", "problem"),
    [
        (torch.zeros(1, 2, 2, 9), torch.zeros(9), "groups: expected a divisor"),
        (torch.zeros(1, 2, 2, 0), torch.zeros(0), "x: expected a contiguous map"),
        (torch.zeros(1, 2, 2, 8), torch.zeros(7), "weight: expected 8 contiguous float32"),
        (torch.zeros(1, 2, 2, 8, dtype=torch.float64), torch.zeros(8), "x: expected float32 or bfloat16"),
        (torch.zeros(0, 2, 2, 8), torch.zeros(8), "x: expected a contiguous map"),
        (torch.zeros(1, 8, 2, 2).permute(0, 2, 3, 1), torch.zeros(8), "x: expected a contiguous map"),
    ],
)
def test_the_operator_rejects_what_does_not_fit(x, weight, problem):
    with pytest.raises(RuntimeError, match=problem):
        torch.ops.focaldet.normalise(x, weight, weight, 1, 2, 1e-5, 0.0, 1.0, torch.empty_like(x))
