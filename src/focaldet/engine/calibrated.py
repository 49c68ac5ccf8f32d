"""Apply the calibration of a run to detections as tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.engine.detect import as_arrays, as_detections
from focaldet.records.calibration import FILE, read_calibration
from focaldet.runtime.certainty import Certainty
from focaldet.runtime.side_bands import side_bands
from focaldet.structures import Detections

Floats = NDArray[np.float64]


def read_certainty(run: Path, class_names: Sequence[str]) -> Certainty | None:
    """The calibration of a run; ``None`` if it has none.

    Raises:
        InputError: it is broken, or belongs to a model with other classes.
    """
    calibration = read_calibration(run)
    if calibration is None:
        return None
    if calibration.class_names != tuple(class_names):
        raise InputError(f"{run / FILE}: belongs to a model with other classes; write it again, or remove it")
    return Certainty(calibration)


def calibrated_detections(detections: Detections, certainty: Certainty) -> Detections:
    """Detections with chances as scores, best first."""
    return as_detections(certainty.calibrated(as_arrays(detections)))


def detection_bands(
    certainty: Certainty | None,
    detections: Detections,
    photo_size: tuple[int, int],
    *,
    coverage: float,
    whole_box: bool,
) -> tuple[Floats, Floats]:
    """See ``Detector.side_bands``."""
    if certainty is None or certainty.calibration.bands is None:
        missing = "has no calibration" if certainty is None else "matched too few boxes when it was calibrated"
        raise InputError(f"the run {missing}, so no band can be promised: focaldet calibrate RUN --data DIR")
    boxes, labels, stds = detections.boxes_xyxy, detections.labels, detections.side_std_px
    return side_bands(
        certainty.calibration.bands,
        coverage,
        boxes.numpy(),
        labels.numpy(),
        None if stds is None else stds.numpy(),
        photo_size,
        whole_box=whole_box,
    )
