"""The calibration of a run on labelled photos: score maps, thresholds, side bands, and the quality of each.

The reported figures come from cross-fitting: five times, four fifths of the photos make a calibration and the other
photos measure it. The saved calibration is fitted on all photos.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from focaldet.evaluation.average_precision import EVALUATION_SCORE
from focaldet.evaluation.confusion import confusion
from focaldet.evaluation.matching import ImageResult, match_run
from focaldet.evaluation.score_calibration import (
    FOLDS,
    MIN_PLATT,
    calibration_error,
    cross_fitted,
    fit_maps,
    laace0,
    laece0,
    reliability,
)
from focaldet.evaluation.scored import Scored, pooled, scored_by_class
from focaldet.evaluation.side_bands import band_coverage, fit_bands, matched_boxes
from focaldet.evaluation.thresholds import class_thresholds, curves
from focaldet.records.calibration import MAX_SAMPLED, Bands, Calibration, ClassThresholds, PhotoSample, Scale
from focaldet.records.run_files import Run
from focaldet.runtime.shift import least_scores, photo_sample

STRICT_IOU = 0.75
"""Second IoU threshold of the report."""

COVERAGES = (0.8, 0.9, 0.95)
"""Coverages in the report."""


def calibrate(run: Run, *, data: str, split: str, least_score: float = EVALUATION_SCORE) -> Calibration | None:
    """Calibrate on the truth and the predictions of a run; ``None`` if too few objects are found for anything.

    Args:
        run: truth and predictions, with the network's own scores.
        data: description of the photos, for people.
        split: split of the photos.
        least_score: lower bound of the scores in the predictions.

    Raises:
        ValueError: truth and predictions do not fit together.
    """
    results, names = match_run(run), run.class_names
    classes = scored_by_class(results, len(names))
    if int(pooled(classes).right.sum()) < MIN_PLATT:
        return None
    thresholds = class_thresholds(classes)
    maps, chosen = fit_maps(classes)
    least = [each.best_f1 for each in thresholds]
    scale = _scale(results)
    strict = scored_by_class(match_run(run, iou=STRICT_IOU), len(names))
    overlapping = scored_by_class(match_run(run, iou=0.0), len(names))
    return Calibration(
        class_names=tuple(names),
        data=data,
        split=split,
        photos=len(results),
        objects=sum(len(result.gt_labels) for result in results),
        least_score=least_score,
        maps=tuple(maps),
        class_maps=tuple(chosen),
        thresholds=tuple(thresholds),
        bands=fit_bands(matched_boxes(results, least, scale), names, scale),
        sample=_sample(results, thresholds, least_score),
        report={
            "scores": _score_report(classes, strict, overlapping, len(results), least),
            "classes": _class_rows(classes, strict, least),
            "confusion": confusion(results, least),
            "sides": _side_reports(results, names, least),
        },
    )


def _sample(
    results: Sequence[ImageResult], thresholds: Sequence[ClassThresholds], least_score: float
) -> tuple[PhotoSample, ...]:
    """The sample that ``--check-shift`` compares new photos with."""
    least = least_scores(thresholds, least_score)
    chosen = np.random.default_rng(0).permutation(len(results))[:MAX_SAMPLED]
    parts = [results[index] for index in np.sort(chosen)]
    return tuple(photo_sample(one.scores, one.labels, one.boxes_xyxy, one.side_std_px, least) for one in parts)


def _scale(results: Sequence[ImageResult]) -> Scale:
    """Use standard deviations if all boxes have them."""
    known = all(bool(np.isfinite(result.side_std_px).all()) for result in results)
    return "deviation" if known else "size"


def _scales(scale: Scale) -> tuple[Scale, ...]:
    """The scale in use, and the box size next to standard deviations, to show their benefit."""
    return ("deviation", "size") if scale == "deviation" else ("size",)


def _score_report(
    classes: Sequence[Scored],
    strict: Sequence[Scored],
    overlapping: Sequence[Scored],
    count: int,
    least: Sequence[float],
) -> dict[str, Any]:
    """Calibration errors and reliability diagrams before and after, by cross-fitting over ``count`` photos.

    Args:
        classes, strict, overlapping: detections matched at IoU 0.5, at 0.75, and at any overlap.
    """
    raw, mapped = [one.scores for one in classes], cross_fitted(classes, count)
    # As in the paper, LaECE0 and LaACE0 count only the detections above the operating point.
    kept = [one.at_least(score) for one, score in zip(overlapping, least, strict=True)]
    as_iou = cross_fitted(kept, count, target="iou")
    kept_scores = [one.scores for one in kept]
    right = pooled(classes).right
    return {
        "error": _rounded([calibration_error(classes, raw), calibration_error(classes, mapped)]),
        "error_75": _rounded(
            [
                calibration_error(strict, [one.scores for one in strict]),
                calibration_error(strict, cross_fitted(strict, count)),
            ]
        ),
        "laece0": _rounded([laece0(kept, kept_scores), laece0(kept, as_iou)]),
        "laace0": _rounded([laace0(kept, kept_scores), laace0(kept, as_iou)]),
        "before": reliability(np.concatenate(raw), right),
        "after": reliability(np.concatenate(mapped), right),
    }


def _class_rows(classes: Sequence[Scored], at_75: Sequence[Scored], least: Sequence[float]) -> list[dict[str, Any]]:
    """Counts at the best-F1 threshold of each class, and its curves."""
    rows = []
    for one, other, score in zip(classes, at_75, least, strict=True):
        kept, kept_75 = one.at_least(score), other.at_least(score)
        found = int(kept.right.sum())
        rows.append(
            {
                "found": found,
                "false": len(kept.right) - found,
                "missed": len(one.object_scores) - found,
                "found_75": int(kept_75.right.sum()),
                "curves": curves(one),
            }
        )
    return rows


def _side_reports(
    results: Sequence[ImageResult], names: Sequence[str], least: Sequence[float]
) -> dict[Scale, list[dict[str, Any]]]:
    return {kind: _side_report(results, names, least, kind) for kind in _scales(_scale(results))}


def cross_fitted_bands(run: Run) -> dict[Scale, list[dict[str, Any]]]:
    """Coverage and width of the bands of each scale, see ``SideReport``; empty lists if there are too few boxes."""
    results, names = match_run(run), run.class_names
    least = [each.best_f1 for each in class_thresholds(scored_by_class(results, len(names)))]
    return _side_reports(results, names, least)


def _side_report(
    results: Sequence[ImageResult], names: Sequence[str], least: Sequence[float], scale: Scale
) -> list[dict[str, Any]]:
    """Coverage and width of the bands for each of ``COVERAGES``, by cross-fitting; empty if there are too few boxes."""
    fold = np.random.default_rng(0).permutation(len(results)) % FOLDS
    parts: list[tuple[list[ImageResult], Bands | None]] = []
    for held_out in range(FOLDS):
        others = [result for result, f in zip(results, fold, strict=True) if f != held_out]
        here = [result for result, f in zip(results, fold, strict=True) if f == held_out]
        parts.append((here, fit_bands(matched_boxes(others, least, scale), names, scale)))
    if any(bands is None for _, bands in parts):
        return []
    return coverage_rows(parts, least)


def coverage_rows(
    parts: Sequence[tuple[Sequence[ImageResult], Bands | None]], least: Sequence[float]
) -> list[dict[str, Any]]:
    """Coverage and width for each of ``COVERAGES``.

    Args:
        parts: photos, and the bands to measure on them.
        least: score threshold of each class.
    """
    rows = []
    for coverage in COVERAGES:
        row: dict[str, Any] = {"promised": coverage}
        for key, whole_box in (("box", True), ("side", False)):
            measured = [
                band_coverage(here, least, bands, coverage, whole_box=whole_box)
                for here, bands in parts
                if bands is not None
            ]
            row[f"{key}_inside"] = sum(inside for inside, _, _ in measured)
            row[f"{key}_count"] = sum(total for _, total, _ in measured)
            widths = np.concatenate([np.zeros(0), *(width for _, _, width in measured)])
            row[f"{key}_width_px"] = round(float(widths.mean()), 3) if len(widths) else None
        rows.append(row)
    return rows


def measured_scores(calibration: Calibration, run: Run) -> dict[str, Any] | None:
    """The errors and diagrams of a calibration on a run's evaluation photos, which it was not fitted on."""
    results = match_run(run)
    if not results or run.class_names != list(calibration.class_names):
        return None
    classes = scored_by_class(results, len(calibration.class_names))
    raw = [one.scores for one in classes]
    mapped = [calibration.chances(label, one.scores) for label, one in enumerate(classes)]
    right = pooled(classes).right
    least = [each.best_f1 for each in calibration.thresholds]
    return {
        "error": _rounded([calibration_error(classes, raw), calibration_error(classes, mapped)]),
        "before": reliability(np.concatenate(raw), right),
        "after": reliability(np.concatenate(mapped), right),
        "sides": [] if calibration.bands is None else coverage_rows([(results, calibration.bands)], least),
    }


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 6) for value in values]
