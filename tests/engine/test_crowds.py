"""Photos of more objects than COCO's 100 detections: all of them can be detected, and all count."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data.batching import DetectionDataset
from focaldet.data.folder import read_folder
from focaldet.data.records import ImageRecord
from focaldet.data.truth import coco_truth
from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.detect import detect_records
from focaldet.engine.detector import Detector
from focaldet.engine.load import load_model
from focaldet.engine.spec import room_for, spec_of, with_room
from focaldet.engine.train import train
from focaldet.evaluation.average_precision import average_precision
from focaldet.methods.fcos import FCOS
from focaldet.models.postprocess import PostProcess, PostProcessConfig
from focaldet.runtime.card import KEY
from focaldet.runtime.results import coco_results
from focaldet.structures import HeadOutputs
from runtime.colours import CARD, colour_model

DOTS, SPACING = 16, 32


def crowded_truth(count: int) -> dict[str, Any]:
    """One photo with this many dots in a square lattice."""
    boxes = [[SPACING * x, SPACING * y, 24, 24] for y in range(count // DOTS) for x in range(DOTS)]
    return {
        "info": {},
        "images": [{"id": 1, "width": SPACING * DOTS, "height": SPACING * DOTS, "file_name": "a"}],
        "categories": [{"id": 1, "name": "dot"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 576, "iscrowd": 0}
            for i, box in enumerate(boxes, 1)
        ],
    }


def dot_maps() -> HeadOutputs:
    """A network's outputs for that photo: at stride 8, the nine locations around each dot have its box.

    Scores decrease from dot to dot: all nine of one dot exceed all of the next.
    """
    columns = torch.arange(4 * DOTS)
    offset = columns % 4 - 1  # in strides, from the middle of the dot
    near = offset < 2  # three of four
    distances = torch.stack([1.5 + offset, 1.5 - offset])  # a dot of three strides
    across, down = distances[:, None, :].expand(-1, 64, -1), distances[:, :, None].expand(-1, -1, 64)
    boxes = torch.stack([across[0], down[0], across[1], down[1]])[None].clamp(min=0)
    dot = (columns // 4)[:, None] * DOTS + (columns // 4)[None, :]
    logits = torch.where(near[:, None] & near[None, :], 4 - dot / 100, -20.0)
    return HeadOutputs([logits[None, None]], [boxes])


def dots_found(config: PostProcessConfig) -> list[dict[str, Any]]:
    process = PostProcess(FCOS(class_loss="quality_focal"), (8,), config)
    (found,) = process(dot_maps(), [(SPACING * DOTS, SPACING * DOTS)])
    return coco_results(1, found)


@pytest.mark.parametrize(("objects", "room"), [(0, 100), (50, 100), (51, 200), (256, 600), (1000, 2000)])
def test_there_is_room_for_twice_the_objects_of_the_fullest_photo(objects: int, room: int) -> None:
    boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (objects + 3, 1))
    ignored = np.arange(objects + 3) >= objects
    labels = np.zeros(objects + 3, np.int64)
    full = ImageRecord(Path("a"), "a", 1, 99, 99, boxes, labels, ignored)
    empty = replace(full, boxes_xyxy=boxes[:0], labels=labels[:0], ignored=ignored[:0])
    assert room_for([empty, full]) == room


def test_ap_counts_as_many_detections_as_there_can_be_and_cocos_stands_beside_it() -> None:
    truth = crowded_truth(256)
    results = [
        {"image_id": 1, "category_id": 1, "bbox": entry["bbox"], "score": 1 - entry["id"] / 1000}
        for entry in truth["annotations"]
    ]
    evaluation = average_precision(truth, results, max_detections=600)
    assert evaluation.max_detections == 600
    assert evaluation.metrics["AP"] == evaluation.metrics["AR600"] == pytest.approx(1)
    assert evaluation.per_class[0]["AP"] == pytest.approx(1)
    assert evaluation.metrics["AR100"] == pytest.approx(100 / 256)
    assert evaluation.coco_metrics == average_precision(truth, results).metrics
    assert evaluation.coco_metrics["AP50"] == pytest.approx(40 / 101)  # recalls 0, 0.01, ... 0.39


def test_fewer_detections_do_not_change_what_ap_means() -> None:
    evaluation = average_precision(crowded_truth(16), [], max_detections=20)
    assert (evaluation.max_detections, evaluation.coco_metrics) == (100, None)


def test_a_photo_of_256_dots_reaches_what_uncapped_detections_reach() -> None:
    truth = crowded_truth(256)
    uncapped = dots_found(PostProcessConfig(topk_candidates=10**6, max_detections=10**6))
    assert len(uncapped) == 256
    assert dots_found(PostProcessConfig().with_room(600)) == uncapped
    assert average_precision(truth, uncapped, max_detections=600).metrics["AP"] == pytest.approx(1)
    # Room for the detections alone is not enough: the thousand best locations lie around the surest 112 dots.
    assert len(dots_found(PostProcessConfig(max_detections=600))) == 112
    assert len(dots_found(PostProcessConfig())) == 100


def dotted_photos(root: Path, count: int) -> Path:
    """Photos with this many dark dots each, as a COCO folder: three to train, one to validate."""
    chance = np.random.default_rng(0)
    for split, names in {"train": "abc", "val": "d"}.items():
        folder = root / split
        folder.mkdir(parents=True)
        document = crowded_truth(0) | {"images": [], "annotations": []}
        for key, name in enumerate(names, 1):
            photo = Image.new("RGB", (192, 192), "white")
            pen = ImageDraw.Draw(photo)
            document["images"].append({"id": key, "file_name": f"{name}.png", "width": 192, "height": 192})
            for i in range(count):
                x, y = (float(12 * place + chance.integers(3)) for place in divmod(i, DOTS))
                pen.ellipse((x, y, x + 8, y + 8), fill="black")
                entry = {"id": 1000 * key + i, "image_id": key, "category_id": 1, "iscrowd": 0, "area": 50.0}
                document["annotations"].append(entry | {"bbox": [x, y, 9, 9]})
            photo.save(folder / f"{name}.png")
        (folder / "_annotations.coco.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dotted_photos(tmp_path_factory.mktemp("dots"), 128)


@pytest.fixture(scope="module")
def run(dots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of FCOS, which finds most of the dots then."""
    config = TrainConfig(
        data=str(dots),
        out=str(tmp_path_factory.mktemp("run") / "run"),
        method="fcos",
        backbone="mobilenetv3_small_050",
        size=192,
        levels="p3-p7",
        channels=16,
        head_depth=1,
        epochs=20,
        batch=1,
        lr=5e-3,
        ema=0.9,
        augment="none",
        flips="all",
        val_every=20,
    )
    return train(config, say=lambda line: None)


@pytest.mark.slow
def test_a_crowded_data_set_makes_room_by_itself(run: Path) -> None:
    reading = json.loads((run / "model.json").read_text())["reading"]
    assert (reading["max_detections"], reading["candidates"]) == (300, 3000)
    assert load_config(run / "config.yaml").max_detections == "auto"
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["max_detections"] == 300
    assert "AR300" in evaluation["metrics"]
    assert evaluation["coco_metrics"]["AP50"] + 0.05 < evaluation["metrics"]["AP50"] > 0.7


@pytest.mark.slow
def test_the_ap_of_a_run_is_that_of_all_its_detections(run: Path, dots: Path) -> None:
    detector = Detector.load(run, max_detections=10**5)
    folder = read_folder(dots)
    dataset = DetectionDataset(folder.splits["val"], detector.spec.transform)
    postprocess = detector.evaluation_postprocess()
    truth = coco_truth(dataset.records, folder.class_names)
    results = detect_records(detector.net, postprocess, dataset)
    assert len(results) > 128
    uncapped = average_precision(truth, results, max_detections=10**5)
    evaluation = json.loads((run / "evaluation.json").read_text())
    # What twice the objects leaves out of so short a run: dots that it is least sure of.
    assert evaluation["metrics"]["AP"] == pytest.approx(uncapped.metrics["AP"], rel=0.01)


def test_room_is_said_where_it_is_made_and_not_where_it_was_asked_for(dots: Path) -> None:
    records = read_folder(dots).splits["train"]
    said: list[str] = []
    spec = spec_of(TrainConfig(data=str(dots)), ("dot",))
    assert with_room(
        spec, TrainConfig(data=str(dots)), records, said.append
    ).postprocess == PostProcessConfig().with_room(300)
    (line,) = said
    assert "has 128 objects" in line
    assert "limit is 300 detections" in line
    assert "--max-detections" in line
    asked = TrainConfig(data=str(dots), max_detections=40)
    assert with_room(spec, asked, records, said.append).postprocess == PostProcessConfig(max_detections=40)
    assert with_room(spec, TrainConfig(data=str(dots)), [], said.append) == spec
    assert len(said) == 1


@pytest.mark.slow
def test_the_limit_can_be_chosen(run: Path, dots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def found(*options: str) -> list[dict[str, Any]]:
        assert main(["eval", str(run), "--data", str(dots), "--split", "val", *options]) == 0
        return list(json.loads((run / "predictions.json").read_text()))

    assert len(found("--max-detections", "7")) == 7
    assert "at most" not in capsys.readouterr().out
    found("--max-detections", "1000")
    said = capsys.readouterr().out
    assert "(at most 1000 detections per photo)" in said
    assert "(COCO's: at most 100)" in said


@pytest.mark.slow
def test_predict_takes_the_limit(run: Path, dots: Path, tmp_path: Path) -> None:
    photo = dots / "val" / "d.png"
    options = ["--out", str(tmp_path), "--score", "0", "--max-detections", "7"]
    assert main(["predict", str(run), str(photo), *options]) == 0
    assert len(json.loads((tmp_path / "predictions.json").read_text())["annotations"]) == 7


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_a_limit_that_is_none_is_one_line(value: str, dots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(dots), f"--max-detections={value}"]) == 2
    assert "max-detections: expected" in capsys.readouterr().err
    with pytest.raises(InputError, match="max_detections: expected"):
        TrainConfig(data=str(dots), max_detections=value)  # type: ignore[arg-type]


def test_an_exported_model_has_no_more_than_it_was_made_for(tmp_path: Path) -> None:
    file = tmp_path / "colours.onnx"
    file.write_bytes(colour_model({KEY: CARD.to_json()}))
    photo = np.full((60, 80, 3), (25, 204, 102), np.uint8)  # two colours are over a fifth

    def count(most: int | None) -> int:
        model = load_model(file, max_detections=most)
        return len(model.detect([model.prepare(photo)])[0])

    assert [count(None), count(3), count(1)] == [2, 2, 1]
    with pytest.raises(InputError, match=r"exported for 3 detections per photo, not 4; export it again"):
        load_model(file, max_detections=4)
