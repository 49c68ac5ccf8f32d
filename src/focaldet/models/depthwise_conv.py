"""Depthwise convolutions (one filter per channel), which EfficientNets, MobileNets and many others are made of."""

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from focaldet.kernels.depthwise import DTYPES, SIDES, depthwise_conv
from focaldet.kernels.layers import applies


class DepthwiseConv(nn.Conv2d):
    """``nn.Conv2d`` with one square filter per channel, or timm's ``Conv2dSame``, which pads as TensorFlow does.

    On the CPU, training uses the kernel for derivatives (``kernels.depthwise``) where torch has no fast code: for
    filters above 3 x 3, and in bfloat16 for strides above 1. Everything else, and traced and exported models, keep
    torch's convolution.

    >>> conv = DepthwiseConv(nn.Conv2d(8, 8, 5, padding=2, groups=8))
    >>> conv(torch.randn(1, 8, 16, 20)).sum().backward()
    >>> conv.weight.grad.shape
    torch.Size([8, 1, 5, 5])
    """

    def __init__(self, like: nn.Conv2d) -> None:
        """The same convolution, with the same parameters.

        Args:
            like: see ``is_depthwise``.
        """
        channels, bias = like.in_channels, like.bias is not None
        side, stride, padding = like.kernel_size[0], like.stride[0], int(like.padding[0])
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
            super().__init__(channels, channels, side, stride, padding, groups=channels, bias=bias)
        self.weight, self.bias = like.weight, like.bias
        self.same_padding = isinstance(like, Conv2dSame)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H', W')``."""
        if self.same_padding:
            x = pad_same(x, list(self.kernel_size), list(self.stride))
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if not self._pays(x, dtype):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        return depthwise_conv(x.to(dtype), self.weight.to(dtype), bias, self.stride[0], int(self.padding[0]))

    def _pays(self, x: Tensor, dtype: torch.dtype) -> bool:
        return (
            torch.is_grad_enabled()
            and (x.requires_grad or self.weight.requires_grad)
            and (self.kernel_size[0] > 3 or (dtype == torch.bfloat16 and self.stride[0] > 1))
            and dtype in DTYPES
            and self.weight.dtype in (dtype, torch.float32)
            and x.ndim == 4
            and applies([x], self.weight, self.bias)
        )


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise, with a filter and a stride that the kernel knows."""
    (side, width), (stride, stride_x) = conv.kernel_size, conv.stride
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and side == width
        and side in SIDES
        and stride == stride_x
        and (side > 3 or stride > 1)
        and isinstance(conv.padding, tuple)
        and conv.padding[0] == conv.padding[1]
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )
