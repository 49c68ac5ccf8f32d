"""Calibrate scores: maps from a score to the chance that the detection is right, and calibration errors.

A detector is calibrated if 80 % of the detections with a score of 0.8 are right. A class with enough detections has its
own map by isotonic regression, one with fewer by Platt's logistic curve; all others share one map:

    isotonic    the increasing step function with the least squared error, drawn as a broken line through the middles of
                its steps (centred isotonic regression, Oron and Flournoy 2017)
    Platt       chance = sigmoid(a logit(score) + b), a > 0 (Platt 1999)

Both are strictly increasing, so the ranking within a class, and AP, do not change.

The errors of Kuzucu et al., "On Calibration of Object Detectors" (ECCV 2024, arXiv 2405.20459), take the IoU with the
matched object as the target, 0 for a false positive, and match at any overlap. For K classes, J = 25 equal bins:

    LaECE0 = 1/K sum_c sum_j |D_cj| / |D_c|  | mean score of D_cj - mean IoU of D_cj |
    LaACE0 = 1/K sum_c 1 / |D_c| sum_i | score_i - IoU_i |

Axes: N detections.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from focaldet.evaluation.matching import Floats, Ints
from focaldet.evaluation.scored import Scored, pooled
from focaldet.records.calibration import ScoreMap

MIN_ISOTONIC = 500
"""Smallest number of right and of wrong detections for isotonic regression (docs/adr/0014)."""

MIN_PLATT = 20
"""Smallest number of right and of wrong detections for Platt's curve; a class with fewer uses the common map."""

NUM_BINS = 25
"""Bins of the calibration errors, as in the paper."""

FOLDS = 5

_TILT = 0.01  # weight of the score itself in a map, so that a map rises everywhere and no two scores become equal
_PLATT_CORNERS = np.concatenate([[0.0], 1 / (1 + np.exp(-np.linspace(-7, 7, 71))), [1.0]])

Maps = tuple[list[ScoreMap], list[int | None]]
"""Maps, and the index of each class's map."""


def fit_maps(classes: Sequence[Scored], *, target: Literal["right", "iou"] = "right") -> Maps:
    """Maps of all classes.

    Args:
        classes: detections of each class.
        target: quantity that a map predicts: whether the detection is right, or its IoU (0 for a false positive).
    """
    maps: list[ScoreMap] = []
    chosen: list[int | None] = []
    for one in classes:
        own = fit_map(one.scores, getattr(one, target))
        chosen.append(None if own is None else len(maps))
        maps += [] if own is None else [own]
    if None in chosen:
        together = pooled(classes)
        shared = fit_map(together.scores, getattr(together, target))
        if shared is not None:
            chosen = [len(maps) if index is None else index for index in chosen]
            maps.append(shared)
    return maps, chosen


def fit_map(scores: Floats, targets: Floats | np.ndarray) -> ScoreMap | None:
    """Fit a map to detections; ``None`` if there are too few, or if higher scores do not mean better detections.

    Args:
        scores, targets: ``(N,)`` in [0, 1].
    """
    targets = np.asarray(targets, np.float64)
    right = float(targets.sum())
    least = min(right, len(targets) - right)
    if least < MIN_PLATT:
        return None
    line = fit_isotonic(scores, targets) if least >= MIN_ISOTONIC else fit_platt(scores, targets)
    if line is None:
        return None
    x, chances = line
    chances = (1 - _TILT) * np.clip(chances, 0, 1) + _TILT * x
    return ScoreMap(
        "isotonic" if least >= MIN_ISOTONIC else "platt",
        tuple(round(float(v), 9) for v in x),
        tuple(round(float(v), 9) for v in chances),
        len(targets),
        round(right),
    )


def fit_isotonic(scores: Floats, targets: Floats) -> tuple[Floats, Floats] | None:
    """Corners of the broken line, the first at score 0 and the last at 1.

    Half a right and half a wrong detection are added to each step, because ten right out of ten do not prove a score
    certain.
    """
    from sklearn.isotonic import isotonic_regression  # imported here: exported models run without scikit-learn

    x, index = np.unique(scores, return_inverse=True)
    count = np.bincount(index).astype(np.float64)
    steps = isotonic_regression(np.bincount(index, targets) / count, sample_weight=count)
    starts = np.flatnonzero(np.diff(steps, prepend=-1.0) > 0)
    if len(starts) < 2:
        return None
    weight, middle = np.add.reduceat(count, starts), np.add.reduceat(count * x, starts)
    middle /= weight
    smoothed = isotonic_regression((steps[starts] * weight + 0.5) / (weight + 1), sample_weight=weight + 1)
    keep = np.concatenate([[True], np.diff(middle) > 1e-4])
    middle, smoothed = middle[keep], smoothed[keep]
    inner = (middle > 1e-6) & (middle < 1 - 1e-6)
    middle, smoothed = middle[inner], smoothed[inner]
    if not len(middle):
        return None
    return np.concatenate([[0.0], middle, [1.0]]), np.concatenate([[0.0], smoothed, smoothed[-1:]])


def fit_platt(scores: Floats, targets: Floats) -> tuple[Floats, Floats] | None:
    """Corners of Platt's curve, with his targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2) for right and wrong."""
    from sklearn.linear_model import LogisticRegression

    right = targets.sum()
    wrong = len(targets) - right
    high, low = (right + 1) / (right + 2), 1 / (wrong + 2)
    soft = targets * high + (1 - targets) * low
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    logits = np.log(clipped / (1 - clipped))
    doubled = np.concatenate([logits, logits])[:, None]
    labels = np.concatenate([np.ones(len(logits), np.int64), np.zeros(len(logits), np.int64)])
    fitted = LogisticRegression(C=1e10, solver="newton-cholesky").fit(
        doubled, labels, sample_weight=np.concatenate([soft, 1 - soft])
    )
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if not slope > 0:
        return None
    inner = _PLATT_CORNERS[1:-1]
    chances = 1 / (1 + np.exp(-(slope * np.log(inner / (1 - inner)) + offset)))
    return _PLATT_CORNERS, np.concatenate([[0.0], chances, [max(1.0, chances[-1])]])


def apply_maps(classes: Sequence[Scored], fitted: Maps) -> list[Floats]:
    """The mapped scores of each class; unchanged scores if a class has no map."""
    maps, chosen = fitted
    return [
        one.scores if index is None else maps[index](one.scores) for one, index in zip(classes, chosen, strict=True)
    ]


def cross_fitted(
    classes: Sequence[Scored], num_photos: int, *, target: Literal["right", "iou"] = "right", seed: int = 0
) -> list[Floats]:
    """Mapped scores of each class; the maps for a photo are fitted on other photos (five folds)."""
    fold = np.random.default_rng(seed).permutation(num_photos) % FOLDS
    mapped = [one.scores.copy() for one in classes]
    for held_out in range(min(FOLDS, num_photos)):
        fitted = fit_maps([one.at_photos(fold != held_out) for one in classes], target=target)
        for values, one, new in zip(mapped, classes, apply_maps(classes, fitted), strict=True):
            here = fold[one.photo] == held_out
            values[here] = new[here]
    return mapped


def binned_error(scores: Floats, targets: Floats | np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Mean absolute difference of mean score and mean target over equal bins, weighted by their detections.

    >>> round(binned_error(np.array([0.9, 0.9, 0.1, 0.1]), np.array([1.0, 0.0, 0.0, 0.0])), 3)  # (0.4 + 0.1) / 2
    0.25
    """
    if not len(scores):
        return 0.0
    bins = np.clip(np.ceil(scores * num_bins).astype(np.int64) - 1, 0, num_bins - 1)  # (0, 1/J], (1/J, 2/J], ...
    difference = np.bincount(bins, scores - np.asarray(targets, np.float64), num_bins)
    return float(np.abs(difference).sum() / len(scores))


def mean_over_classes(
    classes: Sequence[Scored], scores: Sequence[Floats], error: Callable[[Scored, Floats], float]
) -> float | None:
    """Mean of an error over the classes with a detection and an object; ``None`` without such a class."""
    values = [
        error(one, mapped)
        for one, mapped in zip(classes, scores, strict=True)
        if len(one.scores) and len(one.object_scores)
    ]
    return math.fsum(values) / len(values) if values else None


def calibration_error(classes: Sequence[Scored], scores: Sequence[Floats]) -> float | None:
    """Mean over the classes of ``binned_error`` with rightness as the target: 0 if 80 % of the scores 0.8 are right."""
    return mean_over_classes(classes, scores, lambda one, mapped: binned_error(mapped, one.right))


def laece0(classes: Sequence[Scored], scores: Sequence[Floats]) -> float | None:
    """LaECE0 of scores.

    Args:
        classes: matched at any overlap (``match_run(run, iou=0)``).
        scores: scores of each class's detections.
    """
    return mean_over_classes(classes, scores, lambda one, mapped: binned_error(mapped, one.iou))


def laace0(classes: Sequence[Scored], scores: Sequence[Floats]) -> float | None:
    """LaACE0 of scores; arguments as in ``laece0``."""
    return mean_over_classes(classes, scores, lambda one, mapped: float(np.abs(mapped - one.iou).mean()))


def reliability(scores: Floats, right: np.ndarray, num_bins: int = 10) -> list[dict[str, float | int]]:
    """Rows of a reliability diagram: count, mean score and share of right detections of each non-empty bin."""
    bins = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    rows: list[dict[str, float | int]] = []
    for index in range(num_bins):
        here: Ints = np.flatnonzero(bins == index)
        if len(here):
            share = float(np.mean(right[here]))
            rows.append(
                {"detections": len(here), "score": round(float(scores[here].mean()), 6), "right": round(share, 6)}
            )
    return rows
