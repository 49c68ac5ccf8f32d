from pathlib import Path

import numpy as np
import pytest
import torch

from focaldet.data.batching import DetectionDataset
from focaldet.data.folder import read_folder
from focaldet.engine.detect import detect_records
from focaldet.engine.detector import Detector
from focaldet.engine.spec import METHODS, ModelSpec
from focaldet.runtime.results import coco_results
from focaldet.study.boxes import page_boxes
from focaldet.study.scenes import find_objects, scenes


def untrained(method: str, names: tuple[str, ...]) -> Detector:
    """A detector that is unsure of everything, and so finds a lot."""
    torch.manual_seed(0)
    spec = ModelSpec(method, names, "mobilenetv3_small_050", 96, 16, 1)
    net, made = spec.build(prior_prob=0.5)
    return Detector(spec, net, made)


@pytest.fixture(scope="module")
def folder(cells: Path):
    return read_folder(cells)


@pytest.mark.parametrize("method", METHODS)
def test_a_scene_has_the_detections_that_are_evaluated(folder, method):
    detector = untrained(method, folder.class_names)
    dataset = DetectionDataset(folder.splits["val"], detector.spec.transform)
    postprocess = detector.evaluation_postprocess()
    expected = detect_records(detector.net, postprocess, dataset)
    found = [entry for scene in scenes(detector, dataset) for entry in coco_results(scene.image_id, scene.detections)]
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine["image_id"], mine["category_id"]) == (theirs["image_id"], theirs["category_id"])
        np.testing.assert_allclose(mine["bbox"], theirs["bbox"], atol=0.02)
        assert mine["score"] == pytest.approx(theirs["score"], abs=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_candidate_is_the_box_and_the_score_of_its_location(folder, method):
    detector = untrained(method, folder.class_names)
    scene = next(scenes(detector, DetectionDataset(folder.splits["val"], detector.spec.transform)))
    boxes = scene.candidates
    torch.testing.assert_close(boxes.boxes_xyxy, scene.boxes_xyxy[boxes.location], atol=1e-3, rtol=1e-4)
    score = scene.scores[boxes.location, boxes.labels]
    if detector.method.score_rule.combine == "sqrt":
        score = score.sqrt()
    torch.testing.assert_close(boxes.scores, score)


def test_a_drawn_distribution_has_its_mean_at_the_side(folder):
    detector = untrained("gfl", folder.class_names)
    with torch.no_grad():  # sides of about two strides, which do not leave the photo
        detector.net.head.box_outputs.bias.copy_(-(torch.arange(17.0) - 2).abs().repeat(4))
    scene = next(scenes(detector, DetectionDataset(folder.splits["val"], detector.spec.transform)))
    width, height = scene.boxes_xyxy.amax(dim=0)[2:].tolist()
    inside = 0
    for box in page_boxes(scene):
        x, y = box["origin_xy"]
        for side, (probs, sign) in enumerate(zip(box["distributions"], (-1, -1, 1, 1), strict=True)):
            axis = side % 2
            mean = (x, y)[axis] + sign * box["bin_xy"][axis] * sum(k * p for k, p in enumerate(probs))
            if 0 < mean < (width, height)[axis]:  # else the box is cut to the photo
                rounding = 0.01 + 0.5e-4 * sum(range(17)) * box["bin_xy"][axis]  # probabilities have four digits
                assert box["box_xyxy"][side] == pytest.approx(mean, abs=rounding)
                inside += 1
    assert inside > 20


def test_a_page_box_tells_its_overlap_and_whether_it_found_something(folder):
    detector = untrained("atss", folder.class_names)
    scene = next(scenes(detector, DetectionDataset(folder.splits["val"], detector.spec.transform)))
    boxes = page_boxes(scene)
    assert len(boxes) == len(scene.kept)
    assert all(box["iou"] >= 0.5 for box in boxes if box["found"])
    assert all(box["distributions"] is None and box["quality"] is not None for box in boxes)
    assert [box["score"] for box in boxes] == sorted((box["score"] for box in boxes), reverse=True)


def test_each_object_is_found_once_and_by_the_best_score():
    iou = torch.tensor([[0.6, 0.0], [0.9, 0.0], [0.0, 0.4]])
    assert find_objects(iou).tolist() == [0, -1, -1]


def test_nothing_is_found_where_there_is_nothing():
    assert find_objects(torch.zeros(2, 0)).tolist() == [-1, -1]
    assert find_objects(torch.zeros(0, 2)).tolist() == []
