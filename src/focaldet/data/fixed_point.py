"""Bilinear resizing in whole numbers, as OpenCV resizes 8-bit images: weights of 11 bits, no antialiasing."""

import torch
from jaxtyping import UInt8
from torch import Tensor

ONE = 1 << 11
"""A weight of 1."""


def resize_fixed_point(image: UInt8[Tensor, "3 H W"], width: int, height: int) -> UInt8[Tensor, "3 h w"]:
    """The image at a new size, to the bit as OpenCV 5.0 has it.

    >>> resize_fixed_point(torch.tensor([[[0, 100]]], dtype=torch.uint8).expand(3, 1, 2), 4, 1)[0]
    tensor([[  0,  25,  75, 100]], dtype=torch.uint8)
    """
    left, right, near, far = _taps(image.shape[2], width)
    pixels = image.int()
    rows = (pixels[..., left] * near + pixels[..., right] * far) >> 4  # 15 bits
    above, below, near, far = _taps(image.shape[1], height)
    mixed = ((rows[:, above] * near[:, None]) >> 16) + ((rows[:, below] * far[:, None]) >> 16)
    return ((mixed + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _taps(source: int, target: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis: the two source pixels of each target pixel, twice the same beyond the border, and their weights.

    Weights of the same pixel are not joined: in the rows, that would be rounded in another way.
    """
    at = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).float()
    first = at.floor()
    share = at - first
    weights = (((1 - share) * ONE).round().int(), (share * ONE).round().int())
    return first.long().clamp(0, source - 1), (first.long() + 1).clamp(0, source - 1), *weights
