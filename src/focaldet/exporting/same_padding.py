"""Convolutions whose padding depends on the image's size, TensorFlow's ``SAME``, as timm's ``tf_*`` networks have them.

Along an axis of n pixels, with kernel K and stride s, ``(-n) % s + K - s`` zeros are added, half of them (rounded down)
in front, and ``ceil(n / s)`` pixels come out. Traced as it is written in timm, each such convolution nests the formula
of the sizes before it into its own, which no tracer finishes; so each kind of file has its own way to say it.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from focaldet.checks import InputError

SameConvolution = Callable[[Tensor, Tensor, Tensor | None, Sequence[int], Sequence[int], int], Tensor]
"""Of images, weight, bias, stride, dilation, groups."""

Network = TypeVar("Network", bound=nn.Module)


def padding(length: int, extent: int, stride: int) -> tuple[int, int]:
    """Zeros in front and behind along an axis.

    Args:
        extent: of the kernel with its dilation.

    >>> padding(8, 3, 2), padding(7, 3, 2), padding(8, 5, 2)
    ((0, 1), (1, 1), (1, 2))
    """
    total = max((-length) % stride + extent - stride, 0)
    return total // 2, total - total // 2


@torch.library.custom_op("focaldet::conv2d_same", mutates_args=())
def conv2d_same(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """As one operator, which becomes ONNX's ``Conv`` with ``auto_pad`` (see ``onnx_translations``)."""
    rows, columns = _extents(weight, dilation)
    ends = padding(images.shape[3], columns, stride[1]) + padding(images.shape[2], rows, stride[0])
    return conv2d(pad(images, ends), weight, bias, list(stride), 0, list(dilation), groups)


@conv2d_same.register_fake
def _(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    # Written so, it becomes one division, however many of these convolutions follow one another.
    size = [(length - 1) // step + 1 for length, step in zip(images.shape[2:], stride, strict=True)]
    return images.new_empty(images.shape[0], weight.shape[0], *size)


def conv2d_same_by_index(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """In operators of torch: the pixels are chosen by lists whose lengths are simple, if not what is in them."""
    for axis, extent, step in zip((2, 3), _extents(weight, dilation), stride, strict=True):
        length = images.shape[axis]
        room = extent - 1  # zeros at both ends: as many as there can be
        front = torch.sym_max((-length) % step + extent - step, 0) // 2
        taken = (length - 1) // step * step + extent
        images = pad(images, (room, room) if axis == 3 else (0, 0, room, room))
        images = images.index_select(axis, torch.arange(taken, device=images.device) + (room - front))
    return conv2d(images, weight, bias, list(stride), 0, list(dilation), groups)


class SameConvolutionOf(nn.Module):
    """A ``Conv2dSame`` of timm, computed in another way."""

    def __init__(self, layer: Conv2dSame, convolution: SameConvolution) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        self.convolution = convolution

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images, self.weight, self.bias, self.stride, self.dilation, self.groups)


def with_same_convolutions(net: Network, convolution: SameConvolution) -> Network:
    """A copy of the network, whose convolutions with ``SAME`` padding are computed like this.

    Raises:
        InputError: it has layers of that padding that are no plain convolutions.
    """
    net = deepcopy(net)
    for name, layer in list(net.named_modules()):
        if type(layer) is Conv2dSame:
            net.set_submodule(name, SameConvolutionOf(layer, convolution))
        elif type(layer).__name__.endswith("Same"):
            raise InputError(f"{type(layer).__name__} pads by the image's size, which cannot be exported")
    return net


def onnx_translations() -> dict[Any, Any]:
    """What the operator of this module is in ONNX, for ``torch.onnx.export``."""
    from onnxscript import opset18 as op

    def conv(
        images: Any, weight: Any, bias: Any = None, stride: Any = (1, 1), dilation: Any = (1, 1), groups: int = 1
    ) -> Any:
        inputs = (images, weight) if bias is None else (images, weight, bias)
        return op.Conv(*inputs, auto_pad="SAME_UPPER", strides=stride, dilations=dilation, group=groups)

    return {torch.ops.focaldet.conv2d_same.default: conv}


def _extents(weight: Tensor, dilation: Sequence[int]) -> list[int]:
    return [(side - 1) * step + 1 for side, step in zip(weight.shape[2:], dilation, strict=True)]
