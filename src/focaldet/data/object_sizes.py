"""Sizes of objects in the network's input, and suitable windows of a photo.

Axes: N objects, ignored regions not counted.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import first_names
from focaldet.data.records import ImageRecord
from focaldet.photos.limits import MAX_PIXELS

SMALL_STRIDES = 3
"""An object of fewer strides has few locations, and each of its sides is only a stride or two. Measured on BCCD's
platelets, which have 2.4 strides, see benchmarks/results."""

MAX_RATIO = 1.5
"""Largest ratio of two splits' median objects without a message: about the range of light augmentation, 0.85 to 1.2."""

MIN_AUTO_TILE, MAX_AUTO_TILE = 384, 1024
"""Range of ``auto_tile``: smaller windows are mostly border, larger ones cost memory for little benefit."""

_MEDIANS, _LARGEST, _WHOLE = 8, 0.98, 2
"""Number of median objects along a window's side; quantile of the objects' longer sides, and how often it must fit."""


def sides_seen(record: ImageRecord, size: int | None) -> NDArray[np.float64]:
    """``(N, 2)`` width and height of an image's objects, scaled to a longer side of ``size``; ``None``: unscaled."""
    boxes = record.boxes_xyxy[~record.ignored].astype(np.float64)
    scale = 1.0 if size is None else size / max(record.width, record.height)
    return (boxes[:, 2:] - boxes[:, :2]) * scale


def all_sides_seen(records: Sequence[ImageRecord], size: int | None) -> NDArray[np.float64]:
    """``sides_seen`` of several images."""
    return np.concatenate([np.zeros((0, 2)), *(sides_seen(record, size) for record in records)])


def median_seen(records: Sequence[ImageRecord], size: int | None) -> float:
    """Median of √area, pixels; NaN without objects."""
    sides = all_sides_seen(records, size)
    return float(np.median(np.sqrt(sides.prod(1)))) if len(sides) else float("nan")


def size_difference(medians: Mapping[str, float], size: int) -> str:
    """A line about splits whose objects the network sees larger or smaller than those it is trained on; "" if none.

    Args:
        medians: split -> median √area at ``size``; the first split is trained on.
        size: longer side in pixels to which whole photos are scaled.

    >>> size_difference({"train": 9.0, "val": 10.0, "test": 23.4}, 320)
    "in photos scaled to 320 px, objects of test are 2.6 times as large as those of train (median 23 px, not 9 px);
    --tile auto uses windows at the photos' own resolution instead"
    """
    (trained, before), *others = medians.items()
    parts = []
    for split, median in others:
        ratio = median / before
        if not 1 / MAX_RATIO <= ratio <= MAX_RATIO and ratio > 0:  # false if one of them is NaN
            parts.append((split, ratio, median))
    parts = [part for part in parts if np.isfinite(part[1])]
    if not parts:
        return ""
    split, ratio, median = max(parts, key=lambda part: abs(np.log(part[1])))
    return (
        f"in photos scaled to {size} px, objects of {split} are {ratio:.1f} times as large as those of {trained} "
        f"(median {median:.0f} px, not {before:.0f} px); --tile auto uses windows at the photos' own resolution instead"
    )


def suggests_tile(records: Sequence[ImageRecord], size: int, stride: int) -> str:
    """A line that suggests windows if objects are too small at ``size`` and large enough in the photo; else "".

    Args:
        stride: stride of the finest level, pixels.
    """
    seen, own = median_seen(records, size), median_seen(records, None)
    if not (seen < SMALL_STRIDES * stride and own >= 1.5 * seen):
        return ""
    return (
        f"the median object has {own:.0f} px in the photo and {seen:.0f} px at {size} px: train on windows of the "
        "photos at their own resolution with --tile auto"
    )


def too_large_without_tile(records: Sequence[ImageRecord]) -> str:
    """A line about photos that are too large to be decoded whole; "" if there are none."""
    count = sum(record.width * record.height > MAX_PIXELS for record in records)
    if not count:
        return ""
    return f"photos of more than {MAX_PIXELS:,} pixels, which are only read in windows (--tile): {count:,}"


def largest_side(records: Sequence[ImageRecord]) -> int:
    """Longer side in pixels of the photo that 98 of 100 objects do not exceed; 0 without objects."""
    sides = all_sides_seen(records, None).max(1, initial=0)
    return int(np.ceil(np.quantile(sides, _LARGEST))) if len(sides) else 0


def auto_tile(records: Sequence[ImageRecord], coarsest: int) -> tuple[int, str]:
    """(side of the windows to train on, a line that says why).

    A window has room for 8 median objects along its side, or for two of the largest, so that its border cuts few. Its
    side is a multiple of the coarsest stride, so that each level of the pyramid has whole locations.

    Args:
        records: training photos.
        coarsest: stride of the coarsest level, pixels.
    """
    median, largest = median_seen(records, None), largest_side(records)
    wanted = max(_MEDIANS * median, _WHOLE * largest) if largest else MIN_AUTO_TILE
    tile = int(min(MAX_AUTO_TILE, max(MIN_AUTO_TILE, coarsest * np.ceil(wanted / coarsest))))
    if not largest:
        return tile, f"--tile auto: {tile} px, since there are no objects to measure"
    why = f"the median object has {median:.0f} px, and 98 of 100 have at most {largest:,} px"
    limit = f"; auto never chooses more than {MAX_AUTO_TILE:,} px" if wanted > MAX_AUTO_TILE else ""
    return tile, f"--tile auto: windows of {tile:,} px ({why}{limit})"


def median_sides(records: Sequence[ImageRecord], size: int | None) -> dict[int, float]:
    """The side (√area) of each class's median object in the network's input, in pixels, by label; without ignored ones.

    Args:
        size: longer side in pixels at which the detector is trained; ``None``: windows at the photos' own resolution.
    """
    sides: dict[int, list[float]] = {}
    for record in records:
        geometric = np.sqrt(sides_seen(record, size).prod(1)).tolist()
        for label, side in zip(record.labels[~record.ignored].tolist(), geometric, strict=True):
            sides.setdefault(label, []).append(side)
    return {label: float(np.median(found)) for label, found in sorted(sides.items())}


def small_classes(medians: Mapping[int, float], class_names: Sequence[str], stride: int) -> list[str]:
    """Name and side of the classes whose median object is below ``SMALL_STRIDES`` of the finest level.

    Args:
        medians: see ``median_sides``.
        stride: stride of the finest level, pixels.
    """
    return [f"{class_names[label]} ({px:.0f} px)" for label, px in medians.items() if px < SMALL_STRIDES * stride]


def small_classes_line(medians: Mapping[int, float], class_names: Sequence[str], size: int | None, stride: int) -> str:
    """A line about these classes; "" if there are none. ``size``: as for ``medians``."""
    small = small_classes(medians, class_names, stride)
    if not small:
        return ""
    remedies = " or ".join(["a larger --size"] * (size is not None) + ["--levels p2-p6 (stride 4)"] * (stride > 4))
    return f"small for a finest stride of {stride} px, judging by the median object: {first_names(small)}; " + (
        remedies + " detects them better but takes longer" if remedies else "few locations see each"
    )
