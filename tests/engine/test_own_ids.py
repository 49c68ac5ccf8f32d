"""truth.json and predictions.json contain the ids and areas of the user's own COCO file: pycocotools accepts both."""

import contextlib
import copy
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting.random_runs import random_run
from focaldet.data.folder import read_folder
from focaldet.data.records import NO_CLASS, DataFolder, ImageRecord
from focaldet.data.truth import category_ids, coco_truth, image_ids
from focaldet.engine.evaluate import evaluate_split
from focaldet.evaluation.average_precision import METRICS, average_precision


@pytest.fixture(scope="module")
def folder(coco_photos: Path) -> DataFolder:
    return read_folder(coco_photos)


@pytest.fixture(scope="module")
def own_file(coco_photos: Path) -> dict[str, Any]:
    (file,) = (coco_photos / "annotations").glob("*val*.json")
    return dict(json.loads(file.read_text()))


def by_pycocotools(document: dict[str, Any], results: list[dict[str, Any]]) -> list[float | None]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(document)
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value < 0 else float(value) for value in evaluation.stats]


def detections_near(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Each object moved a little, some twice, some missed, some as another class."""
    chance = np.random.default_rng(0)
    ids = [category["id"] for category in truth["categories"]]
    results = []
    for entry in truth["annotations"]:
        for _ in range(chance.integers(3)):
            x, y, w, h = entry["bbox"]
            dx, dy, dw, dh = chance.normal(0, 0.06, 4) * [w, h, w, h]
            category = entry["category_id"] if chance.random() < 0.9 else ids[chance.integers(len(ids))]
            box = [x + dx, y + dy, max(w + dw, 1), max(h + dh, 1)]
            score = round(float(chance.random()), 2)  # ties, within a photo and between photos
            results.append({"image_id": entry["image_id"], "category_id": category, "bbox": box, "score": score})
    return results


def test_ids_are_those_of_the_file(folder: DataFolder, own_file: dict[str, Any]) -> None:
    truth = coco_truth(folder.splits["val"], folder.class_names, folder.category_ids)
    assert {image["id"] for image in truth["images"]} == {image["id"] for image in own_file["images"]}
    assert {c["id"]: c["name"] for c in truth["categories"]} == {c["id"]: c["name"] for c in own_file["categories"]}
    assert max(c["id"] for c in truth["categories"]) == 90  # COCO's have gaps


def test_ap_is_that_of_pycocotools_on_the_users_own_file(folder: DataFolder, own_file: dict[str, Any]) -> None:
    truth = coco_truth(folder.splits["val"], folder.class_names, folder.category_ids)
    results = detections_near(truth)
    theirs = by_pycocotools(own_file, results)
    assert list(average_precision(truth, results).metrics.values()) == pytest.approx(theirs, abs=1e-6)
    # By the boxes' own areas, sizes would be others.
    boxes = [entry | {"area": entry["bbox"][2] * entry["bbox"][3]} for entry in truth["annotations"]]
    by_box = average_precision(truth | {"annotations": boxes}, results).metrics
    assert by_box["AP"] == pytest.approx(theirs[0], abs=1e-6)
    assert theirs[3] is not None
    assert by_box["AP_small"] != pytest.approx(theirs[3], abs=0.01)


def test_the_files_of_an_evaluation_are_taken_by_pycocotools_beside_the_users_own(
    folder: DataFolder, own_file: dict[str, Any], tmp_path: Path
) -> None:
    run = random_run(tmp_path / "run", "gfl", class_names=folder.class_names)
    evaluate_split(run, folder, "val", say=lambda line: None)
    results = json.loads((run / "predictions.json").read_text())
    ours = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert results
    for document in (own_file, json.loads((run / "truth.json").read_text())):
        assert [ours[name] for name in METRICS] == pytest.approx(by_pycocotools(document, results), abs=1e-6)


def test_words_are_ids_too(folder: DataFolder) -> None:
    records = tuple(replace(record, image_id=f"photo {record.image_id:012}") for record in folder.splits["val"])
    words = tuple(f"kind of {name}" for name in folder.class_names)
    truth = coco_truth(records, folder.class_names, words)
    numbers = coco_truth(folder.splits["val"], folder.class_names)
    assert truth["images"][0]["id"] == f"photo {folder.splits['val'][0].image_id:012}"
    assert truth["categories"][0]["id"] == words[0]
    theirs = average_precision(numbers, detections_near(numbers)).metrics
    ours = average_precision(truth, detections_near(truth)).metrics
    assert ours["AP50"] == pytest.approx(
        theirs["AP50"], abs=0.01
    )  # equal scores of two photos: by the order of the ids


def photo(name: str, key: int | str, **fields: Any) -> ImageRecord:
    boxes, labels = np.array([[10, 10, 30, 30]], np.float32), np.array([0])
    return ImageRecord(Path(name), name, key, 64, 64, boxes, labels, np.array([False]), **fields)


def test_photos_of_two_files_with_the_same_ids_are_numbered() -> None:
    assert image_ids([photo("a", 7), photo("b", 7), photo("c", 8)]) == [1, 2, 3]
    assert image_ids([photo("a", 7), photo("b", "7")]) == [7, "7"]


@pytest.mark.parametrize("own", [(), (3,), (3, 3)])
def test_classes_without_ids_of_their_own_are_numbered(own: tuple[int, ...]) -> None:
    assert category_ids(("a", "b"), own) == [1, 2]


def test_a_region_of_no_class_is_a_crowd_of_each_and_keeps_its_area() -> None:
    records = [replace(photo("a", 5, areas=np.array([123.0])), labels=np.array([NO_CLASS]), ignored=np.array([True]))]
    truth = coco_truth(records, ("a", "b"), (20, 10))
    told = [(entry["category_id"], entry["iscrowd"], entry["area"]) for entry in truth["annotations"]]
    assert told == [(20, 1, 123.0), (10, 1, 123.0)]


def test_a_clipped_box_and_a_crowd_keep_the_areas_of_their_annotations(coco_photos: Path, tmp_path: Path) -> None:
    shutil.copytree(coco_photos, tmp_path / "data")
    (file,) = (tmp_path / "data" / "annotations").glob("*val*.json")
    document = json.loads(file.read_text())
    image = document["images"][0]
    crowd = next(entry for entry in document["annotations"] if entry["iscrowd"])
    crowd["area"] = 77.5
    size = [image["width"], image["height"]]
    outside = {"id": 10**9, "image_id": image["id"], "category_id": 1, "iscrowd": 0}
    document["annotations"].append(outside | {"bbox": [size[0] - 20, size[1] - 20, 40, 40], "area": 1600})
    document["annotations"].append(outside | {"id": 10**9 + 1, "bbox": [1, 1, 10, 10]})
    file.write_text(json.dumps(document))
    folder = read_folder(tmp_path / "data")
    truth = coco_truth(folder.splits["val"], folder.class_names, folder.category_ids)
    areas = {tuple(entry["bbox"]): entry["area"] for entry in truth["annotations"] if entry["image_id"] == image["id"]}
    assert areas[size[0] - 20.0, size[1] - 20.0, 20.0, 20.0] == 1600
    assert areas[1.0, 1.0, 10.0, 10.0] == 100
    assert [entry["area"] for entry in truth["annotations"] if entry["iscrowd"]] == [77.5]
