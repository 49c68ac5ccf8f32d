import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focaldet.data.batching import DetectionDataset
from focaldet.data.folder import read_folder
from focaldet.data.records import NO_CLASS, ImageRecord
from focaldet.data.transforms import EvalTransform
from focaldet.data.truth import coco_truth
from focaldet.engine.detect import detect_records, to_photo
from focaldet.engine.detector import Detector
from focaldet.evaluation.average_precision import METRICS, average_precision
from focaldet.structures import Detections

ORACLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ap_oracle"

# pycocotools 2.0.11 on the same two files.
KNOWN = dict(
    zip(
        METRICS,
        [0.503647, 0.696973, 0.571667, 0.593252, 0.557991, 0.489363, 0.386813, 0.593680, 0.595353],
        strict=False,
    )
)


@pytest.fixture(scope="module")
def oracle() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not ORACLE.is_dir():
        pytest.skip("needs ap_oracle beside the repository, in ../shared/data")
    truth = json.loads((ORACLE / "sampled_gts_bbox_area.json").read_text())
    results = json.loads((ORACLE / "instances_val2014_fakebbox100_results.json").read_text())
    return truth, results


def small_truth(*objects: tuple[int, list[float]], crowd: int = 0) -> dict[str, Any]:
    """One image, classes a and b, objects as (category, x y w h)."""
    return {
        "info": {},
        "images": [{"id": 1, "width": 200, "height": 200, "file_name": "a"}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
            for i, (c, b) in enumerate(objects)
        ],
    }


def result(box: list[float], score: float, category: int = 1) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


def test_the_numbers_are_those_of_pycocotools(oracle: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    metrics = average_precision(*copy.deepcopy(oracle)).metrics
    for name, value in KNOWN.items():
        if name.startswith("AR") and name != "AR1":
            continue
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    assert metrics["AR10"] == pytest.approx(0.593680, abs=1e-6)
    assert metrics["AR100"] == pytest.approx(0.595353, abs=1e-6)


def test_all_numbers_of_all_classes_are_those_of_pycocotools(
    oracle: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ours = average_precision(*copy.deepcopy(oracle))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(oracle[0])
        gt.createIndex()
        theirs = COCOeval(gt, gt.loadRes(copy.deepcopy(oracle[1])), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    assert list(ours.metrics.values()) == pytest.approx(theirs.stats.tolist(), abs=1e-9)
    precision = theirs.eval["precision"][:, :, :, 0, 2]
    assert len(ours.per_class) == precision.shape[2]
    for index, row in enumerate(ours.per_class):
        values = precision[:, :, index]
        if row["objects"] == 0:
            assert (values == -1).all()
            assert row["AP"] is None
            continue
        expected = [values.mean(), values[0].mean(), values[5].mean()]
        assert [row["AP"], row["AP50"], row["AP75"]] == pytest.approx(expected, abs=1e-9), row["name"]


def test_an_image_without_detections_counts(oracle: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    truth, results = copy.deepcopy(oracle)
    found = {entry["image_id"] for entry in results}
    assert len(found) == len(truth["images"]) - 1
    without = truth | {
        "images": [image for image in truth["images"] if image["id"] in found],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in found],
    }
    assert average_precision(without, results).metrics["AP"] == pytest.approx(0.506052, abs=1e-6)


def test_a_perfect_detection_has_an_ap_of_one_and_absent_sizes_and_classes_none() -> None:
    evaluation = average_precision(small_truth((1, [10, 10, 20, 20])), [result([10, 10, 20, 20], 0.9)])
    metrics = evaluation.metrics
    assert metrics["AP"] == pytest.approx(1.0)
    assert metrics["AP_small"] == pytest.approx(1.0)
    assert metrics["AP_medium"] is None
    assert metrics["AP_large"] is None
    assert evaluation.per_class[0] == {"name": "a", "objects": 1, "AP": 1.0, "AP50": 1.0, "AP75": 1.0}
    assert evaluation.per_class[1] == {"name": "b", "objects": 0, "AP": None, "AP50": None, "AP75": None}


def test_no_detections_give_zeros_and_none_for_sizes_that_are_not_there() -> None:
    truth = small_truth((1, [10, 10, 20, 20]))
    nothing = average_precision(truth, [])
    wrong = average_precision(truth, [result([150, 150, 20, 20], 0.9)])
    assert nothing == wrong
    assert (nothing.metrics["AP"], nothing.metrics["AP_small"], nothing.metrics["AP_medium"]) == (0.0, 0.0, None)
    assert [row["AP"] for row in nothing.per_class] == [0.0, None]


def test_a_truth_without_any_object_has_nothing_to_measure() -> None:
    for results in ([], [result([10, 10, 20, 20], 0.9)]):
        evaluation = average_precision(small_truth(), results)
        assert set(evaluation.metrics.values()) == {None}
        assert [row["AP"] for row in evaluation.per_class] == [None, None]


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = small_truth((1, [10, 10, 20, 20]))
    truth["annotations"].append(small_truth((1, [100, 100, 80, 80]), crowd=1)["annotations"][0] | {"id": 2})
    results = [result([110, 110, 30, 30], 0.9), result([10, 10, 20, 20], 0.5)]
    evaluation = average_precision(truth, results)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert evaluation.per_class[0]["objects"] == 1


def test_a_region_of_no_class_counts_for_no_class(tmp_path: Path) -> None:
    boxes = np.array([[10, 10, 30, 30], [100, 100, 180, 180]], np.float32)
    labels, ignored = np.array([0, NO_CLASS]), np.array([False, True])
    truth = coco_truth([ImageRecord(tmp_path, "a", 1, 200, 200, boxes, labels, ignored)], ("a", "b"))
    assert [(entry["category_id"], entry["iscrowd"]) for entry in truth["annotations"]] == [(1, 0), (1, 1), (2, 1)]
    found = [result([10, 10, 20, 20], 0.5)]
    beside = [result([110, 110, 30, 30], 0.9, category) for category in (1, 2)]
    outside = [result([40, 110, 30, 30], 0.9)]
    assert average_precision(truth, found + beside).metrics["AP"] == pytest.approx(1.0)
    assert average_precision(truth, found + beside + outside).metrics["AP"] == pytest.approx(0.5)
    assert average_precision(truth, found).per_class[1]["AP"] is None


def test_a_class_that_is_only_a_crowd_has_nothing_to_measure() -> None:
    truth = small_truth((1, [100, 100, 80, 80]), crowd=1)
    assert average_precision(truth, [result([0, 0, 9, 9], 0.9)]).per_class[0]["AP"] is None


def test_truth_and_results_are_not_changed() -> None:
    truth, results = small_truth((1, [10, 10, 20, 20])), [result([10, 10, 20, 20], 0.9)]
    before = copy.deepcopy((truth, results))
    average_precision(truth, results)
    assert (truth, results) == before


def test_the_truth_of_a_folder_is_perfect_against_itself(cells: Path) -> None:
    folder = read_folder(cells)
    truth = coco_truth(folder.splits["train"], folder.class_names)
    results = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in truth["annotations"]]
    metrics = average_precision(truth, results).metrics
    assert metrics["AP"] == pytest.approx(1.0)
    assert len(truth["annotations"]) == sum(record.num_objects for record in folder.splits["train"])


def test_boxes_and_deviations_return_to_the_photo() -> None:
    seen = Detections(
        torch.tensor([[10.0, 20, 30, 40]]), torch.tensor([0.5]), torch.tensor([1]), torch.tensor([[1.0, 2, 3, 4]])
    )
    photo = to_photo(seen, (50, 100), (200, 300))
    assert photo.boxes_xyxy.tolist() == [[30, 80, 90, 160]]
    assert photo.side_std_px is not None
    assert photo.side_std_px.tolist() == [[3, 8, 9, 16]]
    last = to_photo(seen, (50, 100), (200, 300), last_pixel=True)
    assert last.boxes_xyxy.tolist() == [[30, 80, 91, 161]]
    assert to_photo(seen, (50, 100), (160, 90), last_pixel=True).boxes_xyxy.tolist() == [[9, 64, 28, 129]]


def test_detecting_leaves_the_network_in_its_mode_and_does_not_depend_on_the_batch(cells: Path, trained: Path) -> None:
    detector = Detector.load(trained, score_threshold=0.0)
    records = read_folder(cells).splits["train"]
    dataset = DetectionDataset(records, EvalTransform(detector.spec.size))
    detector.net.train()
    done: list[int] = []
    ones = detect_records(detector.net, detector.postprocess, dataset, batch=1, progress=done.append)
    assert detector.net.training
    assert done == [1, 2, 3, 4]
    threes = detect_records(detector.net, detector.postprocess, dataset, batch=3)
    assert len(ones) == len(threes) > 0
    for key in ("image_id", "score"):
        assert np.allclose([e[key] for e in ones], [e[key] for e in threes], atol=1e-4)
