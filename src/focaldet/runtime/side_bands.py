"""Bands around the sides of detected boxes, which contain the true sides as often as promised.

Axes: N detections; sides are left, top, right, bottom.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focaldet.checks import InputError
from focaldet.records.calibration import BORDERS, PERCENTS, SIZE_AREAS, SIZES, BandGroup, Bands, Scale

Floats = NDArray[np.float64]

BORDER_SHARE = 0.005
"""A side is at the photo's border if it is nearer to it than this share of the photo's width or height."""

_MIN_UNIT_PX = 0.1  # bands have a width even if a standard deviation is 0


def side_units(boxes_xyxy: ArrayLike, side_std_px: ArrayLike | None, scale: Scale) -> Floats:
    """Unit of each side's band in pixels, ``(N, 4)``: its standard deviation, or the length of the box across it.

    >>> side_units([[0, 0, 10, 20]], None, "size")
    array([[10., 20., 10., 20.]])
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    if scale == "size":
        lengths = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
        return np.concatenate([lengths, lengths], axis=1)
    if side_std_px is None:
        raise InputError("the bands are measured in standard deviations, and these boxes have none")
    return np.maximum(np.asarray(side_std_px, np.float64).reshape(-1, 4), _MIN_UNIT_PX)


def at_border(boxes_xyxy: ArrayLike, photo_size: tuple[int, int]) -> NDArray[np.bool_]:
    """``(N, 4)``: which sides are at the photo's border.

    Args:
        photo_size: (height, width).

    >>> at_border([[0, 3, 50, 98]], (100, 100))
    array([[ True, False, False, False]])
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    height, width = photo_size
    low = boxes[:, :2] <= BORDER_SHARE * np.array([width, height])
    high = boxes[:, 2:] >= (1 - BORDER_SHARE) * np.array([width, height])
    return np.concatenate([low, high], axis=1)


def sizes_of(boxes_xyxy: ArrayLike) -> NDArray[np.int64]:
    """``(N,)``: index into ``SIZES`` by the area of the box."""
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.searchsorted(np.array(SIZE_AREAS), areas, side="right")


def cell_index(labels: Any, sizes: Any, border: Any) -> Any:
    """Index into ``BandTable.cells``; the arguments broadcast."""
    return (np.asarray(labels) * len(SIZES) + sizes) * len(BORDERS) + border


def percent_of(coverage: float) -> int:
    """Index into ``PERCENTS`` of the smallest percentage that is not below a share.

    >>> [PERCENTS[percent_of(share)] for share in (0.5, 0.9, 0.903)]
    [50, 90, 91]
    """
    if not 0.5 <= coverage <= PERCENTS[-1] / 100:
        raise InputError(f"coverage: expected 0.5 to {PERCENTS[-1] / 100}, got {coverage}")
    return math.ceil(round(100 * coverage, 6)) - PERCENTS[0]


def band_factors(bands: Bands, coverage: float, cells: Any, *, whole_box: bool) -> Floats:
    """Factors of cells; infinite if the calibration photos cannot promise the coverage."""
    table = bands.whole_box if whole_box else bands.each_side
    index = percent_of(coverage)
    by_group = np.array([_factor(group, index) for group in table.groups])
    factors: Floats = by_group[np.array(table.cells)[cells]]
    return factors


def side_bands(
    bands: Bands,
    coverage: float,
    boxes_xyxy: ArrayLike,
    labels: ArrayLike,
    side_std_px: ArrayLike | None,
    photo_size: tuple[int, int],
    *,
    whole_box: bool = True,
) -> tuple[Floats, Floats]:
    """Lowest and highest position of each side, both ``(N, 4)``, clipped to the photo.

    Args:
        coverage: share of detected objects for which the promise holds, see ``percent_of``.
        boxes_xyxy, labels, side_std_px: detections in pixels of the photo.
        photo_size: (height, width).
        whole_box: promise all four sides of a box at once; otherwise each side separately.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    label, size, border = np.asarray(labels, np.int64).reshape(-1), sizes_of(boxes), at_border(boxes, photo_size)
    if whole_box:
        cells = cell_index(label, size, border.any(axis=1))[:, None]
    else:
        cells = cell_index(label[:, None], size[:, None], border)
    reach = band_factors(bands, coverage, cells, whole_box=whole_box) * side_units(boxes, side_std_px, bands.scale)
    limits = np.array([photo_size[1], photo_size[0]] * 2, np.float64)
    return np.clip(boxes - reach, 0, limits), np.clip(boxes + reach, 0, limits)


def _factor(group: BandGroup, index: int) -> float:
    factor = group.factors[index]
    return math.inf if factor is None else factor
