"""Non-maximum suppression in NumPy: for models exported without it, and for boxes from several windows of a photo.

Two boxes whose IoU exceeds a limit above 0 are close and of similar size. So boxes are sorted into a grid by their
centres, and only nearby ones are compared: the work grows with the number of boxes, not with its square.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_FIRST_BLOCK = 256
_MAX_PAIRS = 1 << 19
"""Number of pairs compared at a time; bounds the memory."""

_MAX_ROWS = 4096
_SLACK = 1.001  # of a reach, far above the rounding of float32


def batched_nms(boxes_xyxy: Floats, scores: Floats, labels: Indices, iou_threshold: float, most: int) -> Indices:
    """Indices of the boxes that remain after NMS within each class, best first.

    Args:
        boxes_xyxy: ``(N, 4)``.
        scores, labels: ``(N,)``; of equal scores, the first is better.
        iou_threshold: a box is dropped if its IoU with a better one of its class exceeds this.
        most: largest number of boxes returned.

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]], np.float32)
    >>> batched_nms(boxes, np.array([0.5, 0.9, 0.2], np.float32), np.zeros(3, np.int64), 0.6, 100)
    array([1, 2])
    """
    order = np.argsort(-scores, kind="stable")
    return order[suppressed(boxes_xyxy[order], labels[order], iou_threshold, most)]


def suppressed(boxes_xyxy: Floats, labels: Indices, iou_threshold: float, most: int) -> Indices:
    """Indices of the boxes that remain; ``(N, 4)`` and ``(N,)`` are sorted best first."""
    alive = np.ones(len(boxes_xyxy), bool)
    kept: list[Indices] = []
    count, first, size = 0, 0, _FIRST_BLOCK
    while first < len(alive) and count < most:
        block = first + np.flatnonzero(alive[first : first + size])
        kept.append(_kept_of_block(boxes_xyxy, labels, block, iou_threshold))
        count += len(kept[-1])
        first, size = first + size, 2 * size
        rest = first + np.flatnonzero(alive[first:])
        for _, beaten in overlapping(boxes_xyxy, labels, kept[-1], rest, iou_threshold):
            alive[beaten] = False
    return np.concatenate([np.zeros(0, np.int64), *kept])[:most]


def _kept_of_block(boxes: Floats, labels: Indices, block: Indices, iou: float) -> Indices:
    """The boxes of a block that remain. In turns: keep those that no better one overlaps, drop what they overlap."""
    kept: list[Indices] = []
    while len(block):
        beaten = np.zeros(len(boxes), bool)
        for better, worse in overlapping(boxes, labels, block, block, iou):
            beaten[worse[better < worse]] = True
        best = block[~beaten[block]]
        kept.append(best)
        beaten[:] = False
        beaten[best] = True
        for _, near in overlapping(boxes, labels, best, block, iou):
            beaten[near] = True
        block = block[~beaten[block]]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))


def overlapping(
    boxes: Floats, labels: Indices, firsts: Indices, seconds: Indices, iou: float
) -> Iterator[tuple[Indices, Indices]]:
    """Yield all pairs of one class, one of ``firsts`` and one of ``seconds``, whose IoU exceeds a threshold."""
    for first, second in near_pairs(boxes, labels, firsts, seconds, most_ratio=1 / iou if iou > 0 else np.inf):
        above = ious(boxes[first], boxes[second]) > iou
        yield first[above], second[above]


def ious(boxes: Floats, others: Floats) -> NDArray[np.float64]:
    """IoU of each box ``(N, 4)`` with the other box of the same index.

    Operations and precision are torchvision's, so that an IoU at a threshold compares the same.
    """
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    whole = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(whole), where=whole > 0), np.float64)


def near_pairs(
    boxes: Floats, labels: Indices, firsts: Indices, seconds: Indices, most_ratio: float = np.inf
) -> Iterator[tuple[Indices, Indices]]:
    """Yield pairs of one class, one of ``firsts`` and one of ``seconds``, in parts of bounded size.

    They include all pairs that overlap, unless one box is more than ``most_ratio`` times as wide or as high as the
    other, and a few others.
    """
    firsts, seconds = (index[np.isfinite(boxes[index]).all(axis=1)] for index in (firsts, seconds))
    if not len(firsts) or not len(seconds):
        return
    corners = boxes[seconds].astype(np.float64)
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    (left, top), (right, bottom) = centres.min(0), centres.max(0)
    height = max(float(np.median(sides[:, 1])), (bottom - top) / _MAX_ROWS, 1e-6)
    rows = int((bottom - top) // height) + 1
    width = right - left + 1.0
    # Class, row and column in one number; the seconds are sorted by it.
    numbers = (labels[seconds] * rows + ((centres[:, 1] - top) // height).astype(np.int64)) * width
    order = np.argsort(numbers + (centres[:, 0] - left), kind="stable")
    sorted_seconds, keys = seconds[order], (numbers + (centres[:, 0] - left))[order]

    corners = boxes[firsts].astype(np.float64)
    middle, own = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    with np.errstate(invalid="ignore"):  # 0 times infinity
        reach = np.fmin(own * most_ratio, sides.max(0))
    reach = (own + reach) / 2 * _SLACK + 1e-3
    low, high = middle - reach, middle + reach
    top_row = np.clip((low[:, 1] - top) // height, 0, rows).astype(np.int64)
    last_row = np.clip((high[:, 1] - top) // height, -1, rows - 1).astype(np.int64)
    from_x, to_x = np.clip(low[:, 0] - left, 0, width), np.clip(high[:, 0] - left, -1.0, width - 0.5)
    for step in range(int((last_row - top_row).max()) + 1):
        there = np.flatnonzero(top_row + step <= last_row)
        base = (labels[firsts[there]] * rows + top_row[there] + step) * width
        begin = np.searchsorted(keys, base + from_x[there] - 1e-6, side="left")
        end = np.searchsorted(keys, base + to_x[there] + 1e-6, side="right")
        yield from _expanded(firsts[there], begin, np.maximum(end - begin, 0), sorted_seconds)


def _expanded(firsts: Indices, begin: Indices, counts: Indices, seconds: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Yield each first with the seconds of its range."""
    ends = np.cumsum(counts)
    at = 0
    while at < len(firsts):
        before = ends[at] - counts[at]
        stop = max(at + 1, int(np.searchsorted(ends, before + _MAX_PAIRS, side="right")))
        some = counts[at:stop]
        place = np.arange(int(some.sum())) - np.repeat(ends[at:stop] - some - before, some)
        yield np.repeat(firsts[at:stop], some), seconds[np.repeat(begin[at:stop], some) + place]
        at = stop
