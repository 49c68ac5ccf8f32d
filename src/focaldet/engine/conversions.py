"""Convert detections to and from supervision and FiftyOne."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from focaldet.checks import InputError, near_name
from focaldet.runtime.prediction import Prediction
from focaldet.structures import Detections

if TYPE_CHECKING:
    from supervision import Detections as SupervisionDetections


def to_supervision(
    detections: Detections | Prediction,
    class_names: Sequence[str],
    *,
    side_bands: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> "SupervisionDetections":
    """Convert detections for the ``supervision`` library; ``data["side_std_px"]`` has the standard deviations.

    Args:
        side_bands: from ``Detector.side_bands``; stored as ``data["side_low"]`` and ``data["side_high"]``. A
            ``Prediction`` with a coverage has its own.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "OpenCV .* is not installed")  # nothing here needs it
        import supervision

    data: dict[str, Any] = {"class_name": np.array([class_names[label] for label in detections.labels.tolist()])}
    if detections.side_std_px is not None:
        data["side_std_px"] = np.asarray(detections.side_std_px)
    if not isinstance(detections, Detections) and detections.found.side_low_px is not None:
        data["side_low"], data["side_high"] = detections.found.side_low_px, detections.found.side_high_px
    if side_bands is not None:
        data["side_low"], data["side_high"] = side_bands
    return supervision.Detections(
        xyxy=np.asarray(detections.boxes_xyxy),
        confidence=np.asarray(detections.scores),
        class_id=np.asarray(detections.labels),
        data=data,
    )


def from_supervision(theirs: "SupervisionDetections", class_names: Sequence[str]) -> Detections:
    """Convert detections of ``supervision``, made by any model or read from labels; best first.

    Args:
        theirs: with ``data["class_name"]``, or else ``class_id``. Without ``confidence``, scores are 1.
        class_names: name of each label.

    Raises:
        InputError: a class is not among the names.
    """
    count = len(theirs)
    if (names := theirs.data.get("class_name")) is not None:
        labels = [_label(str(name), class_names) for name in names]
    elif theirs.class_id is not None:
        labels = [int(label) for label in theirs.class_id]
        if strange := [label for label in labels if not 0 <= label < len(class_names)]:
            raise InputError(f"class_id: expected numbers below {len(class_names)}, got {strange[0]}")
    elif count:
        raise InputError("supervision's detections have neither class_id nor class names")
    else:
        labels = []
    scores = np.ones(count) if theirs.confidence is None else theirs.confidence
    return _best_first(theirs.xyxy, scores, labels, theirs.data.get("side_std_px"))


def to_fiftyone(
    detections: Detections | Prediction, class_names: Sequence[str], photo_size: tuple[int, int] | None = None
) -> Any:
    """Convert detections to a ``fiftyone.Detections``; each has its standard deviations as ``side_std_px``.

    Args:
        photo_size: (height, width), because FiftyOne's boxes are fractions of the photo; a ``Prediction`` knows it.

    Raises:
        InputError: FiftyOne is not installed, or the size is missing.
    """
    try:
        import fiftyone
    except ModuleNotFoundError as error:
        raise InputError("to_fiftyone: fiftyone is not installed; pip install fiftyone") from error
    if isinstance(detections, Prediction):
        photo_size = (detections.photo.shape[0], detections.photo.shape[1])
    if photo_size is None:
        raise InputError("to_fiftyone: photo_size is missing, the photo's (height, width)")
    height, width = photo_size
    stds = detections.side_std_px
    entries = []
    for i, (x1, y1, x2, y2) in enumerate(detections.boxes_xyxy.tolist()):
        entries.append(
            fiftyone.Detection(
                label=class_names[int(detections.labels[i])],
                bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                confidence=float(detections.scores[i]),
                **({} if stds is None else {"side_std_px": stds[i].tolist()}),
            )
        )
    return fiftyone.Detections(detections=entries)


def from_fiftyone(theirs: Any, class_names: Sequence[str], photo_size: tuple[int, int]) -> Detections:
    """Convert a ``fiftyone.Detections``, made by any model or from labels; best first.

    Args:
        theirs: without ``confidence``, as in labels, scores are 1.
        class_names: name of each label.
        photo_size: (height, width).

    Raises:
        InputError: a class is not among the names.
    """
    height, width = photo_size
    rows = np.array([each.bounding_box for each in theirs.detections], np.float64).reshape(-1, 4)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1) * [width, height, width, height]
    scores = [1.0 if each.confidence is None else each.confidence for each in theirs.detections]
    labels = [_label(each.label, class_names) for each in theirs.detections]
    stds = [getattr(each, "side_std_px", None) for each in theirs.detections]
    known = bool(stds) and all(std is not None for std in stds)
    return _best_first(boxes, np.array(scores), labels, np.array(stds) if known else None)


def _label(name: str, class_names: Sequence[str]) -> int:
    if name not in class_names:
        raise InputError(f"class {name!r} is not among the names; {near_name(name, class_names)}")
    return list(class_names).index(name)


def _best_first(boxes: Any, scores: Any, labels: Sequence[int], stds: Any) -> Detections:
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    return Detections(
        torch.from_numpy(np.asarray(boxes, np.float32).reshape(-1, 4)[order]),
        torch.from_numpy(np.asarray(scores, np.float32).reshape(-1)[order]),
        torch.from_numpy(np.asarray(labels, np.int64).reshape(-1)[order]),
        None if stds is None else torch.from_numpy(np.asarray(stds, np.float32).reshape(-1, 4)[order]),
    )
