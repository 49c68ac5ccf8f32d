"""Detections converted to supervision and FiftyOne and back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from focaldet.checks import InputError
from focaldet.engine.conversions import from_fiftyone, from_supervision, to_fiftyone, to_supervision
from focaldet.structures import Detections

NAMES = ("cell", "platelet")
FOUND = Detections(
    torch.tensor([[10.0, 20, 50, 60], [0, 0, 30, 40]]),
    torch.tensor([0.9, 0.4]),
    torch.tensor([1, 0]),
    torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
)


def same(found: Detections, other: Detections) -> None:
    torch.testing.assert_close(found.boxes_xyxy, other.boxes_xyxy)
    torch.testing.assert_close(found.scores, other.scores)
    assert found.labels.tolist() == other.labels.tolist()
    if other.side_std_px is None:
        assert found.side_std_px is None
    else:
        torch.testing.assert_close(found.side_std_px, other.side_std_px)


def test_supervision_gives_the_detections_back() -> None:
    pytest.importorskip("supervision")
    same(from_supervision(to_supervision(FOUND, NAMES), NAMES), FOUND)
    swapped = from_supervision(to_supervision(FOUND, NAMES), ("platelet", "cell"))  # classes go by their names
    assert swapped.labels.tolist() == [0, 1]


def test_detections_of_another_model_are_sorted_and_checked() -> None:
    supervision = pytest.importorskip("supervision")
    boxes = np.array([[0, 0, 30, 40], [10, 20, 50, 60]], np.float32)
    theirs = supervision.Detections(boxes, confidence=np.array([0.4, 0.9]), class_id=np.array([0, 1]))
    same(from_supervision(theirs, NAMES), Detections(FOUND.boxes_xyxy, FOUND.scores, FOUND.labels))
    labels = supervision.Detections(boxes, class_id=np.array([0, 1]))
    assert from_supervision(labels, NAMES).scores.tolist() == [1, 1]
    with pytest.raises(InputError, match="class_id: expected numbers below 1, got 1"):
        from_supervision(theirs, NAMES[:1])
    with pytest.raises(InputError, match="class 'platelet' is not among the names"):
        from_supervision(to_supervision(FOUND, NAMES), NAMES[:1])
    with pytest.raises(InputError, match="neither class_id nor class names"):
        from_supervision(supervision.Detections(boxes), NAMES)
    assert len(from_supervision(supervision.Detections.empty(), NAMES)) == 0


def test_fiftyone_gives_the_detections_back() -> None:
    """With the real library, where it is installed."""
    pytest.importorskip("fiftyone")
    theirs = to_fiftyone(FOUND, NAMES, (100, 200))
    assert [each.label for each in theirs.detections] == ["platelet", "cell"]
    assert theirs.detections[0].bounding_box == pytest.approx([0.05, 0.2, 0.2, 0.4])
    same(from_fiftyone(theirs, NAMES, (100, 200)), FOUND)
    assert len(from_fiftyone(to_fiftyone(FOUND[:0], NAMES, (100, 200)), NAMES, (100, 200))) == 0


def test_labels_in_the_documented_form_of_fiftyone_are_read() -> None:
    """Its Detection has ``label``, ``bounding_box`` as fractions (x, y, width, height) and ``confidence`` or None."""
    label = SimpleNamespace(label="cell", bounding_box=[0.0, 0.0, 0.15, 0.4], confidence=None)
    found = from_fiftyone(SimpleNamespace(detections=[label]), NAMES, (100, 200))
    same(found, Detections(torch.tensor([[0.0, 0, 30, 40]]), torch.tensor([1.0]), torch.tensor([0])))
    with pytest.raises(InputError, match="class 'cell' is not among the names"):
        from_fiftyone(SimpleNamespace(detections=[label]), ("platelet",), (100, 200))
