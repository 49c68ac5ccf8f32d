"""Boxes around COCO segmentations: polygons, and masks in run-length encoding."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from focaldet.data.formats.rows import Box, around
from focaldet.data.formats.values import as_number

MAX_BITS = 64
"""Largest number of digits in a compressed mask's numbers; longer numbers would take quadratic time."""


def mask_box(segmentation: Any) -> Box | None:
    """The box around a segmentation, or ``None`` if it is missing or malformed.

    Args:
        segmentation: polygons as lists ``[x1, y1, x2, y2, …]``, one such list, or a run-length encoding, compressed or
            not, ``{"size": [height, width], "counts": …}``.

    >>> mask_box([[2, 1, 8, 1, 8, 5]])
    (2.0, 1.0, 8.0, 5.0)
    >>> mask_box({"size": [3, 4], "counts": [4, 1, 2, 1, 4]})  # pixels (1, 1) and (2, 1), column by column
    (1.0, 1.0, 3.0, 2.0)
    """
    if isinstance(segmentation, dict):
        return _rle_box(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    values = [as_number(v) for polygon in polygons if isinstance(polygon, list) for v in _flat(polygon)]
    if any(v is None for v in values) or len(values) % 2:
        return None
    return around(zip(values[::2], values[1::2], strict=True))  # type: ignore[arg-type]


def _flat(polygon: list[Any]) -> list[Any]:
    """``[x1, y1, x2, y2, …]`` from such a list or from points ``[x, y]``."""
    return [v for point in polygon for v in (point if isinstance(point, list) else [point])]


def _rle_box(mask: dict[str, Any]) -> Box | None:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(v, int) and 0 < v < 1 << 20 for v in size):
        return None
    if isinstance(counts, str):
        runs = _uncompressed(counts)
    elif isinstance(counts, list) and all(isinstance(c, int) and c >= 0 for c in counts):
        runs = counts
    else:
        return None
    height, width = size
    return _runs_box(runs, height) if sum(runs) == height * width else None


def _runs_box(runs: Sequence[int], height: int) -> Box | None:
    """The box around alternating runs of background and object, column by column."""
    ends = list(accumulate(runs))
    spans = [(ends[i] - runs[i], ends[i] - 1) for i in range(1, len(runs), 2) if runs[i] > 0]
    if not spans:
        return None
    columns = [position // height for span in spans for position in span]
    several = any(
        a // height != b // height for a, b in spans
    )  # such a run wraps around from the bottom of a column to the top of the next
    rows = [0, height - 1] if several else [position % height for span in spans for position in span]
    return (float(min(columns)), float(min(rows)), float(max(columns) + 1), float(max(rows) + 1))


def _uncompressed(text: str) -> list[int]:
    """Decode COCO's text of runs: each number in groups of five bits; from the third on, its difference to the number
    two before (maskApi.c of https://github.com/cocodataset/cocoapi). Returns no runs if a number has more than 64 bits.

    >>> _uncompressed("52203"), _uncompressed("o" * 1_000_000)
    ([5, 2, 2, 2, 5], [])
    """
    runs: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more and position < len(text):
            piece = ord(text[position]) - 48
            value |= (piece & 31) << shift
            more = bool(piece & 32)
            position += 1
            shift += 5
            if shift > MAX_BITS:
                return []
            if not more and piece & 16:
                value |= -1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
    return [max(0, run) for run in runs]
