"""Detections as entries of a COCO results file."""

from collections.abc import Sequence
from typing import Any, Protocol

CHANCE_DIGITS = 7
"""Digits of a calibrated score: on a flat map, scores that differ in the fifth digit only differ here."""

COCO_DETECTIONS = 100
"""Number of detections per photo that count in COCO's AP, best first."""


class Numbers(Protocol):
    """An array or a tensor."""

    def tolist(self) -> Any:
        """Convert to Python numbers."""


class Boxes(Protocol):
    """``DetectionArrays`` or ``focaldet.Detections``."""

    @property
    def boxes_xyxy(self) -> Numbers: ...
    @property
    def scores(self) -> Numbers: ...
    @property
    def labels(self) -> Numbers: ...
    @property
    def side_std_px(self) -> Numbers | None: ...


def coco_results(
    image_id: int | str, found: Boxes, category_ids: Sequence[int | str] | None = None
) -> list[dict[str, Any]]:
    """The detections of one image as entries of a COCO results file, with standard deviations of the sides in pixels.

    Args:
        image_id: id of the image.
        found: its detections.
        category_ids: id for each label; ``None``: label + 1.
    """
    boxes, scores, labels = found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist()
    entries: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": label + 1 if category_ids is None else category_ids[label],
            "bbox": _rounded([x1, y1, x2 - x1, y2 - y1]),
            "score": round(score, 5),
        }
        for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels, strict=True)
    ]
    if found.side_std_px is not None:
        for entry, deviation in zip(entries, found.side_std_px.tolist(), strict=True):
            entry["side_std"] = _rounded(deviation)
    _add_certainty(entries, found)
    return entries


def _add_certainty(entries: list[dict[str, Any]], found: Boxes) -> None:
    """Add the fields of calibrated detections: the network's own score, and bands."""
    if (raw := getattr(found, "raw_scores", None)) is not None:
        for entry, score, own in zip(entries, found.scores.tolist(), raw.tolist(), strict=True):
            entry["score"] = round(score, CHANCE_DIGITS)
            entry["raw_score"] = round(own, 5)
    for key in ("side_low", "side_high"):
        if (sides := getattr(found, f"{key}_px", None)) is not None:
            for entry, side in zip(entries, sides.tolist(), strict=True):
                entry[key] = _rounded(side)


def named_limit(max_detections: int) -> str:
    """Suffix for "AP" if the limit on detections is not COCO's.

    >>> f"AP{named_limit(500)}", f"AP{named_limit(100)}"
    ('AP (at most 500 detections per photo)', 'AP')
    """
    return f" (at most {max_detections} detections per photo)" if max_detections > COCO_DETECTIONS else ""


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]
