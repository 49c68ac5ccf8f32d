"""Convolutions with TensorFlow's ``SAME`` padding, which depends on the image size, as in timm's ``tf_*`` networks.

Along an axis of n pixels, with kernel K and stride s, ``(-n) % s + K - s`` zeros are added, half of them (rounded down)
in front, and the output has ``ceil(n / s)`` pixels. In timm's form, the size formulas of successive convolutions nest,
and no tracer finishes. Each file format therefore has its own implementation.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from focaldet.checks import InputError
from focaldet.models.depthwise_conv import DepthwiseConv

SameConvolution = Callable[[Tensor, Tensor, Tensor | None, Sequence[int], Sequence[int], int], Tensor]
"""Function of images, weight, bias, stride, dilation and groups."""

Network = TypeVar("Network", bound=nn.Module)


def padding(length: int, extent: int, stride: int) -> tuple[int, int]:
    """Number of zeros in front and behind along an axis.

    Args:
        length: size of the image, pixels.
        extent: size of the dilated kernel.

    >>> padding(8, 3, 2), padding(7, 3, 2), padding(8, 5, 2)
    ((0, 1), (1, 1), (1, 2))
    """
    total = max((-length) % stride + extent - stride, 0)
    return total // 2, total - total // 2


@torch.library.custom_op("focaldet::conv2d_same", mutates_args=())
def conv2d_same(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """A single operator, translated to ONNX's ``Conv`` with ``auto_pad`` (see ``onnx_translations``)."""
    rows, columns = _extents(weight, dilation)
    ends = padding(images.shape[3], columns, stride[1]) + padding(images.shape[2], rows, stride[0])
    return conv2d(pad(images, ends), weight, bias, list(stride), 0, list(dilation), groups)


@conv2d_same.register_fake
def _(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    # In this form, chains of these convolutions simplify to a single division.
    size = [(length - 1) // step + 1 for length, step in zip(images.shape[2:], stride, strict=True)]
    return images.new_empty(images.shape[0], weight.shape[0], *size)


def conv2d_same_by_index(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """Plain torch operators: pixels are gathered by index lists, whose lengths are simple expressions."""
    for axis, extent, step in zip((2, 3), _extents(weight, dilation), stride, strict=True):
        length = images.shape[axis]
        room = extent - 1  # largest number of zeros at each end
        front = torch.sym_max((-length) % step + extent - step, 0) // 2
        taken = (length - 1) // step * step + extent
        images = pad(images, (room, room) if axis == 3 else (0, 0, room, room))
        images = images.index_select(axis, torch.arange(taken, device=images.device) + (room - front))
    return conv2d(images, weight, bias, list(stride), 0, list(dilation), groups)


class SameConvolutionOf(nn.Module):
    """A timm ``Conv2dSame`` with another implementation."""

    def __init__(self, layer: nn.Conv2d, convolution: SameConvolution) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        self.convolution = convolution

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images, self.weight, self.bias, self.stride, self.dilation, self.groups)


def with_same_convolutions(net: Network, convolution: SameConvolution) -> Network:
    """A copy of the network with another implementation of convolutions with ``SAME`` padding.

    Raises:
        InputError: the network has other layers with this padding.
    """
    net = deepcopy(net)
    for name, layer in list(net.named_modules()):
        if type(layer) is Conv2dSame or (isinstance(layer, DepthwiseConv) and layer.same_padding):
            net.set_submodule(name, SameConvolutionOf(layer, convolution))
        elif type(layer).__name__.endswith("Same"):
            raise InputError(f"{type(layer).__name__}: its padding depends on the image size, so it cannot be exported")
    return net


def onnx_translations() -> dict[Any, Any]:
    """ONNX translation of the operator in this module, for ``torch.onnx.export``."""
    from onnxscript import opset18 as op

    def conv(
        images: Any, weight: Any, bias: Any = None, stride: Any = (1, 1), dilation: Any = (1, 1), groups: int = 1
    ) -> Any:
        inputs = (images, weight) if bias is None else (images, weight, bias)
        return op.Conv(*inputs, auto_pad="SAME_UPPER", strides=stride, dilations=dilation, group=groups)

    return {torch.ops.focaldet.conv2d_same.default: conv}


def _extents(weight: Tensor, dilation: Sequence[int]) -> list[int]:
    return [(side - 1) * step + 1 for side, step in zip(weight.shape[2:], dilation, strict=True)]
