"""Depthwise convolutions on the CPU: torch's forward, and both derivatives in one pass (csrc/depthwise.cpp).

oneDNN has no fast code for these derivatives in bfloat16 where the stride is 2 or the filter larger than 3 x 3. In a
step of an EfficientNet or MobileNet they take most of the time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from focaldet.kernels.layers import backward_by_torch, channels_last
from focaldet.kernels.ops import LIBRARY, is_plain

LIBRARY.define(
    "depthwise_backward(Tensor grad, Tensor input, Tensor filter, int stride, int padding) -> (Tensor, Tensor)"
)
_ops: Any = torch.ops.focaldet

SIDES = (3, 5, 7)
"""Sides of the filters that the kernel knows."""
DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes of the maps; the kernel computes in float32."""


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """``conv2d(x, weight, bias, stride, padding, groups=C)`` with fast derivatives.

    Args:
        x: ``(B, C, H, W)`` on the CPU, of one of `DTYPES`; in channels-last order nothing is copied.
        weight: ``(C, 1, K, K)`` of the same dtype, with K one of `SIDES`.
        bias: ``(C,)`` of the same dtype.
    """
    y: Tensor = _DepthwiseConv.apply(x, weight, bias, stride, padding)
    return y


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.stride, ctx.padding = stride, padding
        return conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        # Grad is enabled only if a second derivative is needed.
        if torch.is_grad_enabled() or not is_plain(grad):

            def convolve() -> Tensor:
                return conv2d(x, weight, bias, ctx.stride, ctx.padding, groups=len(weight))

            return *backward_by_torch(convolve, ctx.saved_tensors, needed, grad), None, None
        filters = weight.view(len(weight), -1).T.float().contiguous()
        grad_x, grad_filters = _ops.depthwise_backward(
            channels_last(grad), channels_last(x), filters, ctx.stride, ctx.padding
        )
        grad_weight = grad_filters.T.reshape(weight.shape).to(weight.dtype)
        grad_bias = grad.sum(dim=(0, 2, 3)) if needed[2] else None
        return grad_x.permute(0, 3, 1, 2), grad_weight, grad_bias, None, None
