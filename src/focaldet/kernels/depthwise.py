"""Depthwise convolutions on the CPU: torch's forward, and both derivatives in one pass (csrc/depthwise.cpp).

oneDNN has no fast code for these derivatives in bfloat16 where the stride is 2 or the filter larger than 3 x 3. In a
step of an EfficientNet or MobileNet they take most of the time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

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
        x, weight, _ = ctx.saved_tensors
        # Grad is enabled only if a second derivative is needed.
        if torch.is_grad_enabled() or not is_plain(grad):
            return (*_backward_by_torch(ctx.needs_input_grad, ctx.saved_tensors, grad, ctx.stride, ctx.padding), *_NONE)
        filters = weight.view(len(weight), -1).T.float().contiguous()
        grad_x, grad_filters = _ops.depthwise_backward(
            _channels_last(grad), _channels_last(x), filters, ctx.stride, ctx.padding
        )
        grad_bias = grad.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x.permute(0, 3, 1, 2), grad_filters.T.reshape(weight.shape).to(weight.dtype), grad_bias, *_NONE


_NONE = (None, None)
"""Derivatives of stride and padding."""


def _backward_by_torch(
    needed: tuple[bool, ...], inputs: tuple[Tensor, Tensor, Tensor | None], grad: Tensor, stride: int, padding: int
) -> tuple[Tensor | None, ...]:
    x, weight, bias = inputs
    wanted = [value for value, need in zip(inputs, needed, strict=False) if need and value is not None]
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        output = conv2d(x, weight, bias, stride, padding, groups=len(weight))
    found = iter(torch.autograd.grad(output, wanted, grad, create_graph=differentiable))
    return tuple(next(found) if need else None for need in needed[:3])


def _channels_last(x: Tensor) -> Tensor:
    """``(B, H, W, C)``, contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()
