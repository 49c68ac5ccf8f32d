"""Each kind of wrong label, one by one, and photos without suspects."""

import numpy as np

from focaldet.evaluation.suspects import Suspect, find_suspects
from focaldet.runtime.model import DetectionArrays

NAMES = ("cell", "platelet")
LEAST = np.array([0.4, 0.4])

Row = tuple[float, float, float, float, float, int]


def found(*rows: Row, band: float | None = 4.0) -> DetectionArrays:
    """Detections from x1, y1, x2, y2, score, label, best first, with bands of ± ``band`` pixels."""
    values = np.array(sorted(rows, key=lambda row: -row[4]), np.float32).reshape(-1, 6)
    boxes = values[:, :4]
    low, high = (None, None) if band is None else (boxes - band, boxes + band)
    labels = values[:, 5].astype(np.int64)
    return DetectionArrays(boxes, values[:, 4], labels, None, side_low_px=low, side_high_px=high)


def suspects(
    detections: DetectionArrays, *objects: tuple[float, float, float, float, int], ignored: tuple[list[float], ...] = ()
) -> list[Suspect]:
    truth = np.array(objects, np.float64).reshape(-1, 5)
    regions = np.array(ignored, np.float64).reshape(-1, 4)
    return find_suspects(detections, truth[:, :4], truth[:, 4].astype(np.int64), regions, NAMES, LEAST)


def test_labels_that_the_detector_sees_too_are_not_suspect() -> None:
    seen = found((10, 10, 50, 50, 0.9, 0), (100, 100, 120, 120, 0.6, 1), (200, 200, 240, 240, 0.3, 0))
    assert suspects(seen, (11, 9, 51, 52, 0), (100, 100, 121, 121, 1)) == []
    assert suspects(found()) == []


def test_a_sure_detection_without_a_label_is_a_missing_one() -> None:
    (one,) = suspects(found((10, 10, 50, 50, 0.9, 0), (12, 11, 50, 50, 0.5, 1)))
    assert (one.kind, one.label, one.labelled, one.detected) == ("missing", None, None, "cell")
    assert one.box_xyxy == (10, 10, 50, 50)
    assert one.reason == "No label here; the detector is 90% sure of a cell."
    assert abs(one.certainty - 0.9) < 1e-6


def test_nothing_is_missing_inside_an_ignore_region() -> None:
    assert suspects(found((10, 10, 50, 50, 0.9, 0)), ignored=([0, 0, 60, 60],)) == []


def test_a_neighbour_is_missing_although_it_touches_a_label() -> None:
    """IoU of a quarter with a cell that has its own detection."""
    seen = found((10, 10, 50, 50, 0.95, 0), (10, 34, 50, 74, 0.8, 0))
    (one,) = suspects(seen, (10, 10, 50, 50, 0))
    assert (one.kind, one.box_xyxy) == ("missing", (10, 34, 50, 74))
    assert one.certainty < 0.8


def test_a_label_of_another_class_is_named_with_both_chances() -> None:
    (one,) = suspects(found((10, 10, 50, 50, 0.9, 1), (11, 11, 50, 50, 0.1, 0)), (10, 10, 51, 51, 0))
    assert (one.kind, one.label, one.labelled, one.detected) == ("wrong class", 0, "cell", "platelet")
    assert one.reason == "Labelled cell; the detector is 90% sure that it is platelet, and 10% that the label is right."
    assert abs(one.certainty - 0.81) < 1e-6


def test_a_platelet_on_a_cell_does_not_make_the_cell_wrong() -> None:
    seen = found((10, 10, 50, 50, 0.9, 1), (10, 10, 52, 52, 0.5, 0))
    assert suspects(seen, (10, 10, 50, 50, 1), (10, 10, 52, 52, 0)) == []


def test_a_side_beyond_its_band_makes_a_loose_box() -> None:
    (one,) = suspects(found((10, 10, 50, 50, 0.9, 0)), (10, 10, 70, 50, 0))
    assert (one.kind, one.label) == ("loose box", 0)
    assert one.reason.startswith("The label's right side is 20 px from the detector's, beyond its 99% band")
    assert suspects(found((10, 10, 50, 50, 0.9, 0), band=30.0), (10, 10, 70, 50, 0)) == []
    assert suspects(found((10, 10, 50, 50, 0.9, 0), band=None), (10, 10, 70, 50, 0)) == []


def test_a_label_far_too_large_is_loose_and_not_a_missing_one_beside_it() -> None:
    (one,) = suspects(found((10, 10, 50, 50, 0.9, 0)), (10, 10, 110, 60, 0))
    assert (one.kind, one.label) == ("loose box", 0)


def test_two_labels_on_one_object_are_a_double_one() -> None:
    (one,) = suspects(found((10, 10, 50, 50, 0.9, 0)), (10, 10, 50, 50, 0), (12, 12, 52, 52, 0))
    assert (one.kind, one.label) == ("double", 1)
    assert one.other_xyxy == (10, 10, 50, 50)
    two = found((10, 10, 50, 50, 0.9, 0), (12, 12, 52, 52, 0.8, 0))
    assert suspects(two, (10, 10, 50, 50, 0), (12, 12, 52, 52, 0)) == []
