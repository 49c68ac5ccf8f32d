"""Calibration of the sides: predicted standard deviation against the actual error |predicted - true side|."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from focaldet.evaluation.matching import Floats, ImageResult
from focaldet.evaluation.statistics import rank_correlation

MIN_SIDES = 40
"""With fewer sides, no conclusion is possible."""

_BINS = 8


@dataclass(frozen=True)
class SideCalibration:
    """Calibration over the sides of all boxes that match an object.

    Args:
        num_sides: number of sides.
        predicted_px, actual_px: ``(bins,)`` root mean square of the standard deviation and of the error, in bins of
            equal count.
        correlation: Spearman's rank correlation of standard deviation and absolute error; None if either is constant.
        within_1, within_2: share of the errors within one and two standard deviations (0.68 and 0.95 if the error is
            normally distributed).
        ratio: root mean square error / root mean square standard deviation; 1 if calibrated, above 1 if overconfident.
    """

    num_sides: int
    predicted_px: Floats
    actual_px: Floats
    correlation: float | None
    within_1: float
    within_2: float
    ratio: float


def side_calibration(results: Sequence[ImageResult], threshold: float) -> SideCalibration | None:
    """Calibration over matched boxes with at least the score ``threshold``; None if too few have deviations."""
    pairs = [_errors_and_deviations(result, threshold) for result in results]
    error, std = (
        (np.concatenate(x) if x else np.zeros(0) for x in zip(*pairs, strict=True)) if pairs else (np.zeros(0),) * 2
    )
    if len(std) < MIN_SIDES:
        return None
    bins = np.array_split(np.argsort(std, kind="stable"), _BINS)
    return SideCalibration(
        num_sides=len(std),
        predicted_px=np.array([_rms(std[b]) for b in bins]),
        actual_px=np.array([_rms(error[b]) for b in bins]),
        correlation=rank_correlation(std, error),
        within_1=float((error <= std).mean()),
        within_2=float((error <= 2 * std).mean()),
        ratio=_rms(error) / max(_rms(std), 1e-9),
    )


def _errors_and_deviations(result: ImageResult, threshold: float) -> tuple[Floats, Floats]:
    kept = (result.matched_gt >= 0) & (result.scores >= threshold) & np.isfinite(result.side_std_px).all(axis=1)
    error = np.abs(result.boxes_xyxy[kept] - result.gt_xyxy[result.matched_gt[kept]])
    return error.ravel(), result.side_std_px[kept].ravel()


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))
