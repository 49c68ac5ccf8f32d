"""``focaldet calibrate``, and calibration at the end of ``train``, on labels that match the detector's own boxes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import focaldet
from exporting.random_runs import CELLS, random_run
from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data.folder import read_folder
from focaldet.engine.calibrate import calibrate_on_val, calibrate_run
from focaldet.engine.compare import detect_labelled
from focaldet.engine.config import TrainConfig
from focaldet.engine.conversions import to_supervision
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import detect_split, evaluate_run
from focaldet.engine.load import load_model, load_selected
from focaldet.engine.spec import read_spec, save_model
from focaldet.engine.train import train
from focaldet.evaluation.average_precision import average_precision
from focaldet.exporting.export import model_card
from focaldet.files import write_json
from focaldet.records.calibration import FILE, read_calibration, write_calibration
from focaldet.records.run_files import read_run


@pytest.fixture(scope="module")
def detecting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights that finds many boxes."""
    return random_run(tmp_path_factory.mktemp("runs"), "gfl", class_names=CELLS)


@pytest.fixture(scope="module")
def labelled(detecting: Path, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 photos whose labels are eight boxes of the detector itself, moved a little, of its best twelve."""
    root = tmp_path_factory.mktemp("labelled")
    detector = Detector.load(detecting)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(30):
        with Image.open(sorted((cells / "JPEGImages").iterdir())[number % 6]) as opened:
            x, y = rng.integers(0, 500), rng.integers(0, 370)
            crop = opened.convert("RGB").crop((x, y, x + 128, y + 96))
        photo = ImageEnhance.Brightness(crop).enhance(rng.uniform(0.7, 1.3))
        name = f"new{number}.png"
        photo.save(root / name)
        images.append({"id": number + 1, "file_name": name, "width": 128, "height": 96})
        found = detector.predict(root / name)[:12]
        for index in rng.permutation(len(found))[:8].tolist():
            box = found.boxes_xyxy[index].numpy()
            sides = np.clip(box + rng.normal(0, 0.02, 4) * (box[2:] - box[:2]).max(), 0, [128, 96, 128, 96])
            x1, y1, x2, y2 = sides.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": int(found.labels[index]) + 1,
                    "bbox": [x1, y1, max(x2 - x1, 1.0), max(y2 - y1, 1.0)],
                    "area": 100.0,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(detector.class_names)]
    write_json(root / "labels.json", {"images": images, "annotations": annotations, "categories": categories})
    return root


@pytest.fixture
def sure_run(detecting: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(detecting, tmp_path / "sure"))


@pytest.fixture
def calibrated(sure_run: Path, labelled: Path) -> Path:
    calibrate_run(sure_run, labelled, say=lambda line: None)
    return sure_run


def test_calibration_is_written_and_said(sure_run: Path, labelled: Path) -> None:
    said: list[str] = []
    before = {file.name: file.read_bytes() for file in sure_run.iterdir() if file.is_file()}
    calibration = calibrate_run(sure_run, labelled, say=said.append)
    assert read_calibration(sure_run) == calibration
    assert calibration.photos == 30
    assert calibration.class_names == Detector.load(sure_run).class_names
    assert calibration.bands is not None
    assert any("calibrated on 30 photos" in line for line in said)
    assert any("whole true box" in line for line in said)
    after = {file.name: file.read_bytes() for file in sure_run.iterdir() if file.is_file()}
    assert after.pop(FILE)
    assert after == before  # the files of an evaluation are those of before


def test_command_calibrates_and_predict_uses_it(sure_run, labelled, tmp_path, capfd) -> None:
    assert main(["calibrate", str(sure_run), "--data", str(labelled)]) == 0
    assert "scores with the best F1" in capfd.readouterr().out
    photos = [str(labelled / f"new{number}.png") for number in range(3)]
    assert main(["predict", str(sure_run), *photos, "--out", str(tmp_path / "out"), "--coverage", "0.8"]) == 0
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    calibration = read_calibration(sure_run)
    assert entries
    for entry in entries:
        least = calibration.thresholds[entry["category_id"] - 1].best_f1
        assert entry["raw_score"] >= least - 2e-5
        x, y, width, height = entry["bbox"]
        for low, side, high in zip(entry["side_low"], [x, y, x + width, y + height], entry["side_high"], strict=True):
            assert low - 0.01 <= side <= high + 0.01


def test_photos_that_trained_the_run_are_refused_with_their_number(run: Path, cells: Path) -> None:
    with pytest.raises(InputError, match=r"4 of these 4 photos trained the detector; .* choose another"):
        calibrate_run(run, cells, "train", say=lambda line: None)
    assert not (run / FILE).exists()


def test_too_few_found_objects_are_refused_and_leave_what_is_there(calibrated: Path, cells: Path) -> None:
    before = (calibrated / FILE).read_bytes()
    with pytest.raises(InputError, match="finds fewer than 20"):
        calibrate_run(calibrated, cells, "val", say=lambda line: None)
    assert (calibrated / FILE).read_bytes() == before


def test_training_on_a_tiny_val_split_says_that_it_is_not_calibrated(config: TrainConfig) -> None:
    said: list[str] = []
    run = train(replace(config, epochs=1), say=said.append)
    assert not (run / FILE).exists()
    assert any(line.startswith("not calibrated: fewer than 20 objects of val are found") for line in said)


def test_training_calibrates_on_val(calibrated: Path, labelled: Path) -> None:
    """As after the last epoch, on what was detected for the evaluation."""
    folder = read_folder(labelled)
    photos = tuple(record for records in folder.splits.values() for record in records)
    folder = replace(folder, splits={"val": photos})
    detected = detect_split(calibrated, folder, "val", say=lambda line: None)
    by_hand = read_calibration(calibrated)
    said: list[str] = []
    calibrate_on_val(calibrated, folder, detected, said.append)
    made = read_calibration(calibrated)
    assert "calibrated on 30 photos" in said[0]
    assert made.thresholds == by_hand.thresholds
    assert made.maps == by_hand.maps


def test_val_photos_that_trained_the_run_calibrate_nothing(calibrated: Path, run: Path, cells: Path) -> None:
    folder = read_folder(cells)
    shutil.copy(run / "splits.json", calibrated)
    said: list[str] = []
    trained = replace(folder, splits={"val": folder.splits["train"]})
    calibrate_on_val(calibrated, trained, detect_split(calibrated, trained, "val", say=lambda line: None), said.append)
    assert said == [
        "not calibrated: 4 of these 4 photos trained the detector; calibrate it on new ones: "
        f"focaldet calibrate {calibrated} --data DIR"
    ]
    assert not (calibrated / FILE).exists()


def test_new_weights_have_no_calibration(calibrated: Path) -> None:
    detector = Detector.load(calibrated)
    assert detector.certainty is not None
    save_model(calibrated, detector.spec, detector.net)
    assert not (calibrated / FILE).exists()


def test_detector_gives_chances_and_keeps_the_order_within_a_class(calibrated: Path, labelled: Path) -> None:
    photo = labelled / "new0.png"
    raw = Detector.load(calibrated, calibrated=False).predict(photo)
    detector = Detector.load(calibrated)
    found = detector.predict(photo)
    assert len(found) == len(raw)
    assert found.scores.tolist() != raw.scores.tolist()
    assert (found.scores.diff() <= 0).all()
    for label in raw.labels.unique():
        assert (found.boxes_xyxy[found.labels == label] == raw.boxes_xyxy[raw.labels == label]).all()
    low, high = detector.side_bands(found, (96, 128), coverage=0.9)
    assert ((low <= found.boxes_xyxy.numpy() + 1e-3) & (found.boxes_xyxy.numpy() <= high + 1e-3)).all()
    narrow, _ = detector.side_bands(found, (96, 128), coverage=0.9, whole_box=False)
    assert narrow.mean() > low.mean()
    theirs = to_supervision(found, detector.class_names, side_bands=(low, high))[1:3]
    assert (theirs.data["side_low"] == low[1:3]).all()
    assert (theirs.data["side_high"] == high[1:3]).all()
    seen = focaldet.Run(calibrated).predict(photo, coverage=0.9)
    theirs = to_supervision(seen, seen.class_names)
    assert np.array_equal(theirs.data["side_low"], seen.found.side_low_px)
    assert np.array_equal(theirs.data["side_high"], seen.found.side_high_px)
    with pytest.raises(InputError, match="no calibration"):
        Detector.load(calibrated, calibrated=False).side_bands(found, (96, 128))


def test_ap_of_calibrated_predictions_is_that_of_eval(calibrated: Path, labelled: Path, tmp_path: Path) -> None:
    report = evaluate_run(calibrated, labelled, "test", say=lambda line: None)
    run = read_run(calibrated)
    ids = [image["id"] for image in run.truth["images"]]
    detector = load_model(calibrated)
    results = []
    for image in run.truth["images"]:
        found = detector.predict(image["file_name"])
        results += [
            {"image_id": image["id"], "category_id": run.truth["categories"][label]["id"], "bbox": box, "score": score}
            for label, box, score in zip(
                found.labels.tolist(),
                [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in found.boxes_xyxy.tolist()],
                found.scores.tolist(),
                strict=True,
            )
        ]
    assert len(ids) == report["images"] > 0
    metrics = average_precision(run.truth, results).metrics
    assert metrics["AP50"] == pytest.approx(report["metrics"]["AP50"], abs=2e-3)  # eval rounds boxes and scores
    assert metrics["AP"] == pytest.approx(report["metrics"]["AP"], abs=2e-3)


def test_export_carries_what_prediction_needs(calibrated: Path) -> None:
    card = model_card(Detector.load(calibrated), "detections")
    assert card.calibration == read_calibration(calibrated).for_export()
    assert card.calibration["report"] is None
    assert model_card(Detector.load(calibrated, calibrated=False), "detections").calibration is None


def test_detector_looks_as_low_as_the_choice_needs(calibrated: Path) -> None:
    document = json.loads((calibrated / "model.json").read_text())
    document["reading"]["score_threshold"] = 0.9
    (calibrated / "model.json").write_text(json.dumps(document))
    model, picked = load_selected(calibrated, None)
    assert model.postprocess.config.score_threshold == pytest.approx(picked.needed)
    served, _ = load_selected(calibrated, None, lower_only=True)
    assert served.postprocess.config.score_threshold == pytest.approx(min(0.9, picked.needed))


def test_page_of_errors_names_the_threshold_of_each_class(calibrated: Path, labelled: Path) -> None:
    compared = detect_labelled(calibrated, labelled)
    calibration = read_calibration(calibrated)
    (note,) = [note for note in compared.notes if note.startswith("lowest score of each class: ")]
    assert note.count(",") == len(calibration.class_names) - 1
    assert compared.results
    assert min(entry["score"] for entry in compared.results) >= compared.least_score
    plain = detect_labelled(calibrated, labelled, score=0.2)
    assert plain.least_score == pytest.approx(0.2, abs=1e-4)
    assert not [note for note in plain.notes if note.startswith("lowest score")]


def test_calibration_of_another_model_is_refused(calibrated: Path, capfd) -> None:
    calibration = read_calibration(calibrated)
    write_calibration(calibrated, replace(calibration, class_names=("a", "b", "c")))
    with pytest.raises(InputError, match="other classes"):
        Detector.load(calibrated)
    assert read_spec(calibrated / "model.json").class_names == Detector.load(calibrated, calibrated=False).class_names


def test_broken_calibration_is_told_in_one_line(calibrated: Path, labelled: Path, tmp_path: Path, capfd) -> None:
    (calibrated / FILE).write_text("{")
    code = main(["predict", str(calibrated), str(labelled / "new0.png"), "--out", str(tmp_path / "out")])
    error = capfd.readouterr().err
    assert code == 2
    assert "calibration.json" in error
    assert error.count("\n") == 1
