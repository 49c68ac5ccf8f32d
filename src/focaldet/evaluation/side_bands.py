"""Conformal factors of side bands: how many units around a detected side cover the true side as often as promised.

The error of each side is divided by a unit, its predicted standard deviation or the length of the box. For n boxes, the
factor for a coverage 1 - alpha is the k-th smallest of these ratios (of a box: of the largest of its four), with

    k = ceil((n + d) (1 - alpha))

Split conformal prediction has n + 1 instead (Vovk et al. 2005; for boxes Timans et al., ECCV 2024, arXiv 2403.07263). d
is the design effect: boxes of different photos are not exchangeable, so n boxes are worth n / d independent ones.
docs/adr/0014 has the simulation behind this choice. Without a k-th ratio, the coverage cannot be promised.

Groups with enough boxes in enough photos have their own factors: (class, size, border), else the rest of (class,
border), else the rest of the border group, else everything.

Axes: N matched boxes, R ratios.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from focaldet.evaluation.matching import Floats, ImageResult, Ints
from focaldet.evaluation.scored import Bools
from focaldet.evaluation.thresholds import design_effect
from focaldet.records.calibration import BORDERS, PERCENTS, SIZES, BandGroup, Bands, BandTable, Scale
from focaldet.runtime.side_bands import at_border, cell_index, side_bands, side_units, sizes_of

MIN_BOXES = 100
"""Smallest number of boxes (sides) in a group with its own factors."""

MIN_PHOTOS = 20
"""Smallest number of photos in such a group."""


@dataclass(frozen=True)
class MatchedBoxes:
    """Detected boxes that match an object.

    Args:
        ratios: ``(N, 4)`` absolute error of each side, in units.
        labels, sizes, photo: ``(N,)`` class, index into ``SIZES``, index of the photo.
        border: ``(N, 4)`` sides at the photo's border.
    """

    ratios: Floats
    labels: Ints
    sizes: Ints
    photo: Ints
    border: Bools


def matched_boxes(results: Sequence[ImageResult], thresholds: Sequence[float], scale: Scale) -> MatchedBoxes:
    """The matched boxes with at least the score threshold of their class."""
    least = np.asarray(thresholds, np.float64)
    ratios, labels, sizes, photo, border = [np.zeros((0, 4))], [], [], [], [np.zeros((0, 4), bool)]
    for index, result in enumerate(results):
        kept = kept_matches(result, least)
        boxes, truth = result.boxes_xyxy[kept], result.gt_xyxy[result.matched_gt[kept]]
        ratios.append(np.abs(boxes - truth) / side_units(boxes, result.side_std_px[kept], scale))
        labels.append(result.labels[kept])
        sizes.append(sizes_of(boxes))
        photo.append(np.full(len(boxes), index, np.int64))
        border.append(at_border(boxes, (result.height, result.width)))
    label, size, of_photo = (np.concatenate([np.zeros(0, np.int64), *part]) for part in (labels, sizes, photo))
    return MatchedBoxes(np.concatenate(ratios), label, size, of_photo, np.concatenate(border))


def kept_matches(result: ImageResult, least: Floats) -> Bools:
    """``(N,)``: which boxes match an object and have at least the score threshold of their class."""
    kept: Bools = (result.matched_gt >= 0) & (result.scores >= least[result.labels])
    return kept


def fit_bands(boxes: MatchedBoxes, class_names: Sequence[str], scale: Scale) -> Bands | None:
    """Factors of all groups; ``None`` if there are too few boxes or photos for any."""
    if len(boxes.labels) < MIN_BOXES or len(np.unique(boxes.photo)) < MIN_PHOTOS:
        return None
    largest, any_border = boxes.ratios.max(axis=1), boxes.border.max(axis=1)
    whole = _table(largest, boxes.labels, boxes.sizes, any_border, boxes.photo, class_names)
    sides = _table(
        boxes.ratios.ravel(),
        np.repeat(boxes.labels, 4),
        np.repeat(boxes.sizes, 4),
        boxes.border.ravel(),
        np.repeat(boxes.photo, 4),
        class_names,
    )
    return Bands(scale, whole, sides)


def conformal_factor(ratios: Floats, photo: Ints, coverage: float) -> float | None:
    """The factor for a coverage, or ``None`` if there are too few ratios to promise it.

    With one box per photo this is split conformal prediction:

    >>> conformal_factor(np.arange(1.0, 20.0), np.arange(19), 0.9)  # the 18th of 19: ceil(20 * 0.9)
    18.0
    >>> conformal_factor(np.arange(1.0, 9.0), np.arange(8), 0.9)
    """
    ordered = np.sort(ratios)
    plain = _rank(len(ordered), 1.0, coverage)
    if plain > len(ordered):
        return None
    effect = design_effect(np.bincount(photo, ratios <= ordered[plain - 1]), np.bincount(photo))
    rank = _rank(len(ordered), effect, coverage)
    return None if rank > len(ordered) else float(ordered[rank - 1])


def band_coverage(
    results: Sequence[ImageResult],
    thresholds: Sequence[float],
    bands: Bands,
    coverage: float,
    *,
    whole_box: bool = True,
) -> tuple[int, int, Floats]:
    """Measure the actual coverage of the bands.

    Returns:
        Number of boxes (sides) whose bands contain the truth, number of all boxes (sides), and the ``(N,)`` mean width
        of each box's four bands in pixels, clipped to the photo.
    """
    least = np.asarray(thresholds, np.float64)
    inside = total = 0
    widths = [np.zeros(0)]
    for result in results:
        kept = kept_matches(result, least)
        boxes, truth = result.boxes_xyxy[kept], result.gt_xyxy[result.matched_gt[kept]]
        stds, size = result.side_std_px[kept], (result.height, result.width)
        limits = np.array([size[1], size[0]] * 2, np.float64)
        low, high = side_bands(bands, coverage, boxes, result.labels[kept], stds, size, whole_box=whole_box)
        truth = np.clip(truth, 0, limits)
        hit = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
        inside += int(hit.all(axis=1).sum() if whole_box else hit.sum())
        total += len(boxes) if whole_box else hit.size
        widths.append((high - low).mean(axis=1))
    return inside, total, np.concatenate(widths)


def _rank(count: int, effect: float, coverage: float) -> int:
    return max(1, math.ceil((count + effect) * coverage - 1e-9))


def _table(
    ratios: Floats, labels: Ints, sizes: Ints, border: Bools, photo: Ints, class_names: Sequence[str]
) -> BandTable:
    """Groups of R ratios: all cells that are large enough, then the rest of each coarser group if large enough."""
    shape = (len(class_names), len(SIZES), len(BORDERS))
    cells = np.arange(math.prod(shape)).reshape(shape)
    of_ratio = cell_index(labels, sizes, border.astype(np.int64))
    counts = np.bincount(of_ratio, minlength=cells.size)
    candidates = [
        (f"{class_names[c]}, {SIZES[s]}, {BORDERS[b]}", cells[c, s, b].reshape(-1)) for c, s, b in np.ndindex(shape)
    ]
    candidates += [(f"{class_names[c]}, {BORDERS[b]}", cells[c, :, b]) for c, b in np.ndindex(shape[::2])]
    candidates += [(BORDERS[b], cells[:, :, b].ravel()) for b in range(len(BORDERS))]
    groups: list[BandGroup] = []
    chosen = np.full(cells.size, -1)
    for name, whole in candidates:
        mine = whole[chosen[whole] < 0]
        if counts[mine].sum() < MIN_BOXES:
            continue
        here = np.isin(of_ratio, mine)
        if len(np.unique(photo[here])) >= MIN_PHOTOS:
            chosen[mine] = len(groups)
            groups.append(_group(name + ", the rest" * (len(mine) < len(whole)), ratios[here], photo[here]))
    if (chosen < 0).any():  # too few are left, so use the factors of everything
        chosen[chosen < 0] = len(groups)
        groups.append(_group("all", ratios, photo))
    return BandTable(tuple(groups), tuple(chosen.tolist()))


def _group(name: str, ratios: Floats, photo: Ints) -> BandGroup:
    factors = [conformal_factor(ratios, photo, percent / 100) for percent in PERCENTS]
    photos = len(np.unique(photo))
    return BandGroup(name, len(ratios), photos, tuple(None if f is None else math.ceil(f * 1e6) / 1e6 for f in factors))
