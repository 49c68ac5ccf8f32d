"""Files with 16 bits per channel: which value is white.

Microscopes and industrial cameras store 10, 12 or 14 bits in 16; as fractions of 65,535, such photos are almost black.
So white is the value that the file states, else the largest value of 8, 10, 12, 14 or 16 bits: the fewest bits that
hold the photo's brightest pixel. It depends only on the file, so training, evaluation and prediction see the same
photo.
"""

import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FULL = 65_535
"""White of a file that uses all 16 bits."""

_BY_RANGE = (255, 1023, 4095, 16_383, FULL, 2**24 - 1, 2**32 - 1)

_ROWS = 64
"""Number of values scaled at a time."""

_LOW_BYTES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBX", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "L" if sys.byteorder == "big" else "B"))
}
"""Pillow's raw mode for the high bytes of a channel (big, little, native order) -> its mode for the low ones."""

_BITS_PER_SAMPLE, _MAXIMA = 258, (341, 281)
"""Tags of TIFF; the maxima are SMaxSampleValue and MaxSampleValue."""


def grey_of_16_bits(image: Image.Image, stated: Sequence[int] = ()) -> tuple[Image.Image, int]:
    """A grey image of Pillow's integer modes with 8 bits, and the value that became 255.

    Args:
        stated: white values that the file states; a value that a pixel exceeds does not count.
    """
    values = np.asarray(image)
    white = _white(int(values.max(initial=0)), stated)
    return Image.fromarray(_scaled(values, white)), white


def colours_of_16_bits(
    image: Image.Image, stated: Sequence[int], reopen: Callable[[], AbstractContextManager[Image.Image]]
) -> tuple[Image.Image, int]:
    """A colour image with 8 bits, and the value that became 255. Pillow keeps the high byte of each channel; if that
    loses too much, the file is read again for the low bytes.

    Args:
        reopen: opens the same file again.
    """
    high = np.asarray(image)
    top = 256 * int(high[..., :3].max(initial=0))
    if top and _white(top, stated) == FULL:
        return image, FULL
    values = high.astype(np.uint16) << np.uint16(8)
    del high
    with reopen() as again:
        again.tile = [_low(tile) for tile in again.tile]  # type: ignore[attr-defined]
        values |= np.asarray(again)
    white = _white(int(values[..., :3].max(initial=0)), stated)
    alpha = FULL if values[..., 3:].max(initial=0) > white else white
    scaled = _scaled(values[..., :3], white)
    if values.shape[2] > 3:
        scaled = np.concatenate([scaled, _scaled(values[..., 3:], alpha)], axis=2)
    return Image.fromarray(scaled), white


def has_colours_of_16_bits(image: Image.Image) -> bool:
    """Whether the file of an image that is open but not loaded has 16 bits per channel."""
    tiles: list[Any] = getattr(image, "tile", [])
    return bool(tiles) and all(_rawmode(tile) in _LOW_BYTES for tile in tiles) and "transparency" not in image.info


def stated_whites(image: Image.Image, source: Path | BytesIO) -> tuple[int, ...]:
    """White values that a 16-bit image file states, the most likely first; empty if it states none.

    PNG states the number of significant bits (sBIT). A writer that follows the standard scales values up to 16 bits;
    others do not, which shows if no value is larger. Pillow has already applied PGM's maximum.
    """
    if image.format == "PNG":
        bits = _significant_bits(source)
        return (2**bits - 1, FULL) if 0 < bits <= 16 else ()
    if image.format == "PPM":
        return (FULL,)
    tags: Any = getattr(image, "tag_v2", {})
    if 12 in _numbers(tags.get(_BITS_PER_SAMPLE)):
        return (4095,)
    return tuple(most for tag in _MAXIMA if (most := max(_numbers(tags.get(tag)), default=0)) > 0)


def depth_note(whites: Iterable[int]) -> str:
    """A sentence about 16-bit photos whose white is less than 65,535; "" if there are none.

    Args:
        whites: white of each photo.

    >>> depth_note([65535, 4095, 4095, 1023])
    'photos brightened because they use only part of their 16 bits: 3 (white is 4,095 in 2, 1,023 in 1)'
    """
    counts = Counter(white for white in whites if white < FULL)
    if not counts:
        return ""
    listed = ", ".join(f"{white:,} in {count:,}" for white, count in counts.most_common())
    return f"photos brightened because they use only part of their 16 bits: {counts.total():,} (white is {listed})"


def _white(top: int, stated: Sequence[int]) -> int:
    """The first value that no pixel exceeds; a black photo stays unchanged."""
    return next(white for white in (*stated, *_BY_RANGE) if top <= white) if top > 0 else FULL


def _scaled(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    scaled = np.empty(values.shape, np.uint8)
    for first in range(0, len(values), _ROWS):  # all at once would take 12 bytes per value
        rows = slice(first, first + _ROWS)
        scaled[rows] = np.clip(np.round(values[rows].astype(np.float32) / (white / 255)), 0, 255)
    return scaled


def _rawmode(tile: Any) -> str:
    """Pillow's raw mode of a tile, if its arguments contain one."""
    args = getattr(tile, "args", None)
    return str(args[0] if isinstance(args, tuple) and args else args)


def _low(tile: Any) -> Any:
    low = _LOW_BYTES[_rawmode(tile)]
    return tile._replace(args=low if isinstance(tile.args, str) else (low, *tile.args[1:]))


def _significant_bits(source: Path | BytesIO) -> int:
    """The sBIT of a PNG file's colours, or 0; it comes before the pixels."""
    with source.open("rb") if isinstance(source, Path) else BytesIO(source.getbuffer()) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                bits = file.read(min(length, 4))
                return max(bits[: 1 if len(bits) < 3 else 3], default=0)  # grey or colours, without alpha
            if kind == b"IDAT":
                break
            file.seek(length + 4, 1)
    return 0


def _numbers(value: Any) -> list[int]:
    """The whole numbers of a tag with at most 16 bits."""
    values = value if isinstance(value, tuple | list) else (value,)
    return [int(number) for number in values if isinstance(number, int | float) and 0 <= number <= FULL]
