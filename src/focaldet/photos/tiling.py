"""Windows that cover a photo, for photos larger than the network's input.

Positions are in pixels of the displayed photo.
"""

from typing import NamedTuple

from focaldet.checks import InputError, check_range

FILL = 114
"""Grey for unreadable parts of a file, and around photos that are smaller than the network's input. It is near the mean
of photos, so that the border is a weak edge."""

MIN_TILE = 32
"""Smallest side of a window, pixels."""


MAX_WINDOWS = 1_000_000
"""Largest number of windows of a photo: 200 times as many as cover 40,000 x 30,000 px in windows of 640 px."""


class Window(NamedTuple):
    """A rectangle of whole pixels.

    Args:
        left, top: its first column and row.
        width, height: its size.
    """

    left: int
    top: int
    width: int
    height: int


def overlap_px(tile: int, overlap: float | int) -> int:
    """Number of pixels that neighbouring windows share. A whole number is in pixels, a fraction is a share of the
    window's side.

    Raises:
        InputError: the overlap is negative or leaves no step to the next window.

    >>> overlap_px(640, 0.25), overlap_px(640, 64)
    (160, 64)
    """
    if isinstance(overlap, int):
        if not 0 <= overlap < tile:
            raise InputError(f"overlap: expected 0 to {tile - 1:,} px for windows of {tile:,} px, got {overlap:,}")
        return overlap
    if not 0 <= overlap < 1:
        raise InputError(
            f"overlap: expected a share of the window of at least 0 and below 1, or whole pixels up to {tile - 1:,}, "
            f"got {overlap}"
        )
    return min(tile - 1, round(tile * overlap))


def windows_of(
    size: tuple[int, int], tile: int, overlap: float | int, *, offset: tuple[int, int] = (0, 0)
) -> list[Window]:
    """Windows in rows from the top left that cover a photo; the last of a row or column is moved inwards.

    All windows of a photo have one size: a square, cut along axes in which the photo is smaller.

    Args:
        size: (width, height) of the photo.
        tile: side of a window.
        overlap: shared pixels of neighbouring windows, or a share of their side.
        offset: start of the grid, right of and below the corner; the pixels before it get windows too.

    Raises:
        InputError: the overlap does not fit the window, or leaves steps so short that there would be too many windows.

    >>> windows_of((100, 50), 64, 0.25)
    [Window(left=0, top=0, width=64, height=50), Window(left=36, top=0, width=64, height=50)]
    """
    check_range("tile", tile, 1)
    step = tile - overlap_px(tile, overlap)
    columns, rows = (_starts(length, tile, step, first) for length, first in zip(size, offset, strict=True))
    if (count := len(columns) * len(rows)) > MAX_WINDOWS:
        raise InputError(
            f"overlap: {size[0]:,} x {size[1]:,} px in windows of {tile:,} px, {step:,} px apart, are {count:,} "
            "windows; choose a smaller overlap or a larger tile"
        )
    width, height = min(tile, size[0]), min(tile, size[1])
    return [Window(left, top, width, height) for top in rows for left in columns]


def _starts(length: int, tile: int, step: int, first: int) -> list[int]:
    last = max(0, length - tile)
    starts = range(first % step - step, last + step, step)
    return sorted({min(max(start, 0), last) for start in starts})
