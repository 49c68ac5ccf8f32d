"""Apply a calibration: scores become chances, and sides get bands.

Axes: N detections.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focaldet.records.calibration import Calibration
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.side_bands import percent_of, side_bands

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Certainty:
    """Applies the calibration of a model to its detections."""

    calibration: Calibration

    def chances(self, scores: ArrayLike, labels: ArrayLike) -> Floats:
        """``(N,)`` chance that each detection is right; its score if its class has no map."""
        chances = np.array(scores, np.float64)
        labels = np.asarray(labels)
        for label in range(len(self.calibration.class_maps)):
            mine = labels == label
            chances[mine] = self.calibration.chances(label, chances[mine])
        return chances

    def calibrated(self, found: DetectionArrays) -> DetectionArrays:
        """Detections with chances as scores, best first; their own scores become ``raw_scores``."""
        scores = self.chances(found.scores, found.labels).astype(np.float32)
        order = np.argsort(
            -scores, kind="stable"
        )  # detections with equal float32 chances keep the order of their scores
        return replace(found, scores=scores, raw_scores=found.scores).at(order)

    def with_bands(self, found: DetectionArrays, coverage: float, photo_size: tuple[int, int]) -> DetectionArrays:
        """Detections with bands that contain the whole true box as often as promised.

        Args:
            coverage: share of detected objects, 0.5 to 0.99.
            photo_size: (height, width).
        """
        bands = self.calibration.bands
        if bands is None:
            return found
        low, high = side_bands(bands, coverage, found.boxes_xyxy, found.labels, found.side_std_px, photo_size)
        return replace(found, side_low_px=low.astype(np.float32), side_high_px=high.astype(np.float32))

    def unpromised_groups(self, coverage: float) -> list[str]:
        """Names of the groups of boxes for which the calibration photos cannot promise a coverage."""
        bands = self.calibration.bands
        index = percent_of(coverage)
        return [] if bands is None else [g.name for g in bands.whole_box.groups if g.factors[index] is None]
