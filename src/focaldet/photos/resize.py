"""Scale a photo to the input of a network, for evaluation, prediction and exported models alike.

Sizes are (width, height) in pixels. The results do not depend on the machine: Pillow and OpenCV compute in whole
numbers, and torchvision's method is a product and a sum of float32.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import check_choice, check_range

FIXED_POINT_ONE = 1 << 11
"""A weight of 1 in OpenCV's resizing of 8-bit images."""

MAX_SIZE = 1 << 12
"""Largest longer side of a network's input, in pixels. Small photos are scaled up too: at twice this size, the first
maps of even a small network would take gigabytes."""

Resampling = Literal["antialias", "torchvision", "opencv"]

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""``(h, w, 3)``: uint8, or float32 in [0, 255] if colours are not rounded."""


@dataclass(frozen=True, kw_only=True)
class Resize:
    """How to scale an image to its canvas; published networks differ here.

    Args:
        short_side: shorter side of the canvas in pixels, unless the longer side would then exceed ``size``. ``None``:
            the longer side is ``size``.
        resampling: kind of bilinear filter. ``"antialias"`` is Pillow's, which training uses here. The other two do not
            antialias: ``"torchvision"`` truncates sizes to whole pixels and does not round colours; ``"opencv"``
            computes with 11 bits.

    >>> Resize()(np.zeros((48, 64, 3), np.uint8), 32).shape
    (24, 32, 3)
    """

    short_side: int | None = None
    resampling: Resampling = "antialias"

    def __post_init__(self) -> None:
        check_choice("resampling", self.resampling, get_args(Resampling))
        check_range("short_side", self.short_side or 1, 1, MAX_SIZE)

    def canvas(self, width: int, height: int, size: int) -> tuple[int, int]:
        """(width, height) of an image's canvas.

        >>> Resize(short_side=800).canvas(640, 480, 1333), Resize(short_side=800).canvas(640, 320, 1333)
        ((1067, 800), (1333, 666))
        >>> Resize(short_side=800, resampling="torchvision").canvas(640, 480, 1333)
        (1066, 800)
        """
        long, short = max(width, height), min(width, height)
        scale = size / long if self.short_side is None else min(size / long, self.short_side / short)
        if self.resampling == "antialias":
            return max(1, round(width * scale)), max(1, round(height * scale))
        half = 0.5 if self.resampling == "opencv" else 0.0
        return max(1, int(width * scale + half)), max(1, int(height * scale + half))

    def __call__(self, photo: NDArray[np.uint8], size: int) -> Pixels:
        """Scale a photo ``(H, W, 3)`` to its canvas; ``size`` as in ``canvas``."""
        height, width, _ = photo.shape
        canvas = self.canvas(width, height, size)
        if canvas == (width, height):
            return photo if self.resampling != "torchvision" else photo.astype(np.float32)
        if self.resampling == "antialias":
            return np.asarray(Image.fromarray(photo).resize(canvas, Image.Resampling.BILINEAR))
        return _bilinear(photo, *canvas) if self.resampling == "torchvision" else resize_fixed_point(photo, *canvas)


OWN_RESIZE = Resize()
"""The scaling of focaldet's own training. Unlike the others, it leaves an image of its canvas's size unchanged."""


def _bilinear(photo: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float32]:
    """Interpolate linearly between the two nearest pixels along each axis, in float32."""
    left, right, share = _nearest(photo.shape[1], width)
    rows = photo[:, left] * (1 - share)[:, None] + photo[:, right] * share[:, None]
    above, below, share = _nearest(photo.shape[0], height)
    return np.asarray(rows[above] * (1 - share)[:, None, None] + rows[below] * share[:, None, None], np.float32)


def _nearest(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Along one axis: the two source pixels of each target pixel, and the share of the second."""
    step = float(np.float32(source) / np.float32(target))
    at = np.maximum((np.arange(target) + 0.5) * step - 0.5, 0).astype(np.float32)  # rounded once, as torch has it
    first = np.minimum(at.astype(np.int64), source - 1)
    return first, np.minimum(first + 1, source - 1), at - first.astype(np.float32)


def resize_fixed_point(photo: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize a photo in whole numbers, bit for bit as OpenCV 5.0 does: weights of 11 bits.

    >>> resize_fixed_point(np.array([[[0] * 3, [100] * 3]], np.uint8), 4, 1)[..., 0]
    array([[  0,  25,  75, 100]], dtype=uint8)
    """
    left, right, near, far = _taps(photo.shape[1], width)
    pixels = photo.astype(np.int32)
    rows = (pixels[:, left] * near[:, None] + pixels[:, right] * far[:, None]) >> 4  # 15 bits
    above, below, near, far = _taps(photo.shape[0], height)
    mixed = ((rows[above] * near[:, None, None]) >> 16) + ((rows[below] * far[:, None, None]) >> 16)
    return np.asarray(((mixed + 2) >> 2).clip(0, 255), np.uint8)


def _taps(source: int, target: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """Along one axis: the two source pixels of each target pixel, equal at the border, and their weights.

    The weights of equal pixels are not added up, since in the rows the sum would be rounded differently.
    """
    at = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(at)
    share = at - first
    near, far = ((weight * FIXED_POINT_ONE).round().astype(np.int32) for weight in (1 - share, share))
    column = first.astype(np.int64)
    return column.clip(0, source - 1), (column + 1).clip(0, source - 1), near, far
