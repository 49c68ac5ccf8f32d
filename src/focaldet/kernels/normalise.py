"""Batch norm and group norm in training on the CPU, together with the ReLU after them (csrc/normalise.cpp)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from focaldet.kernels.layers import backward_by_torch, channels_last
from focaldet.kernels.ops import LIBRARY, is_plain

LIBRARY.define(
    "normalise(Tensor x, Tensor weight, Tensor bias, int sets, int groups, float eps, float low, float high, "
    "Tensor(a!) y) -> (Tensor, Tensor)"
)
LIBRARY.define(
    "normalise_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor variance, float eps, "
    "float low, float high) -> (Tensor, Tensor, Tensor)"
)
_ops: Any = torch.ops.focaldet

DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes of the maps; the kernel computes in float32, and sums in float64."""

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
"""Bounds that clamp nothing."""
RELU: Bounds = (0.0, math.inf)


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, bounds: Bounds = ANY
) -> tuple[Tensor, Tensor, Tensor]:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, clamped, with mean and biased variance over the batch.

    Args:
        x: ``(B, C, H, W)`` on the CPU, of one of `DTYPES`; in channels-last order nothing is copied.
        weight, bias: ``(C,)``, float32.
        bounds: lowest and highest value of the result.

    Returns:
        The result in the dtype of x; mean and variance ``(C,)`` in float32, which have no derivative.
    """
    y, mean, variance = _Normalise.apply(x, weight, bias, 1, x.shape[1], eps, bounds)
    return y, mean[0], variance[0]


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, bounds: Bounds = ANY) -> Tensor:
    """Like ``batch_norm``, with mean and variance of each image and group of channels.

    Args:
        x, weight, bias, bounds: see ``batch_norm``.
        groups: number of groups, a divisor of C.
    """
    y: Tensor = _Normalise.apply(x, weight, bias, len(x), groups, eps, bounds)[0]
    return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, sets: int, groups: int, eps: float, bounds: Bounds
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(x, memory_format=torch.channels_last)  # not a view, which an in-place ReLU may not change
        mean, variance = _ops.normalise(channels_last(x), weight, bias, sets, groups, eps, *bounds, channels_last(y))
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps, ctx.bounds = eps, bounds
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, variance = ctx.saved_tensors
        none = (None, None, None, None)  # for what is not a tensor
        # Grad is enabled only if a second derivative is needed.
        if torch.is_grad_enabled() or not is_plain(grad):

            def normalise() -> Tensor:
                if mean.shape == (1, x.shape[1]):
                    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps)
                else:
                    y = F.group_norm(x, mean.shape[1], weight, bias, ctx.eps)
                return y if ctx.bounds == ANY else y.clamp(*ctx.bounds)

            return *backward_by_torch(normalise, (x, weight, bias), ctx.needs_input_grad[:3], grad), *none
        grads = _ops.normalise_backward(
            channels_last(grad), channels_last(x), weight, bias, mean, variance, ctx.eps, *ctx.bounds
        )
        return grads[0].permute(0, 3, 1, 2), *grads[1:], *none
