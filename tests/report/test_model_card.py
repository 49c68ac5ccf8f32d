import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.many_photos import many_photos, with_false
from focaldet.evaluation.certainty import calibrate
from focaldet.records.calibration import write_calibration
from focaldet.records.run_files import read_run
from focaldet.report.model_card import model_card
from report.run_folder import jittered


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A calibrated run with its evaluation, in the place of a study's run; one of its rungs has three seeds."""
    path = tmp_path / "study" / "runs" / "gfl-1"
    path.mkdir(parents=True)
    truth = many_photos(150, ["cell", "dust"])
    results = with_false(truth, jittered(truth, seed=0, spread=0.05), 600)
    rows = [{"name": name, "objects": 150, "AP": 0.5, "AP50": None} for name in ("cell", "dust")]
    evaluation = {"split": "val", "images": 150, "objects": 300, "metrics": {"AP": 0.5123456, "AP_small": None}}
    write(path / "truth.json", truth)
    write(path / "predictions.json", results)
    write(path / "evaluation.json", evaluation | {"per_class": rows})
    write(path / "splits.json", {"train": ["secret-1.jpg"], "val": ["secret-2.jpg", "secret-3.jpg"]})
    write(path / "model.json", {"method": "gfl", "backbone": "resnet18", "size": 320, "class_names": ["cell", "dust"]})
    settings = {
        "data": "/home/me/cells",
        "out": "/home/me/runs/x",
        "method": "gfl",
        "minutes": 10.0,
        "pretrained": True,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(settings | {"alpha": None}))
    write_calibration(path, calibrate(read_run(path), data="150 drawn photos", split="val"))
    return path


def sections(card: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_card_says_data_accuracy_thresholds_training_and_licence(run: Path) -> None:
    card = model_card(run, "me/cells", "apache-2.0")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "apache-2.0"
    assert head["model-index"][0]["results"][0]["metrics"] == [{"type": "AP", "name": "AP", "value": 0.5123}]
    parts = sections(card)
    assert parts["Data"].strip() == "Photos of cells: train 1, val 2. 300 objects in the measured photos."
    assert "| AP | IoU 0.50 to 0.95 | 0.512 |" in parts["Accuracy"]
    assert "| cell | 150 | 0.500 | – |" in parts["Accuracy"]
    assert "started from ImageNet" in parts["Training"]
    assert "minutes: 10.0" in parts["Training"]
    assert parts["Licence"].strip() == "apache-2.0"
    assert "/home/me" not in card
    assert "secret" not in card
    assert "alpha" not in card


def test_the_card_s_thresholds_are_those_of_the_calibration(run: Path) -> None:
    calibration = json.loads((run / "calibration.json").read_text())
    part = sections(model_card(run, "me/cells"))["Thresholds and calibration"]
    for name, each in zip(calibration["class_names"], calibration["thresholds"], strict=True):
        assert f"| {name} | {each['objects']} | {each['best_f1']:.2f} |" in part
    before, after = calibration["report"]["scores"]["error"]
    assert f"off by {before:.3f} on average, calibrated scores by {after:.3f}" in part
    (run / "calibration.json").unlink()
    assert "Not calibrated" in sections(model_card(run, "me/cells"))["Thresholds and calibration"]


def test_the_spread_is_that_of_the_study_s_seeds(run: Path) -> None:
    assert "One training. How far AP differs between seeds was not measured" in model_card(run, "me/cells")
    study = run.parents[1]
    lines = [{"rung": "gfl", "seed": i, "metrics": {"AP": ap}} for i, ap in enumerate((0.5, 0.52, 0.54))]
    lines.append({"rung": "fcos", "seed": 0, "metrics": {"AP": 0.1}})
    (study / "study.json").write_text("{}")
    (study / "study.jsonl").write_text("\n".join(map(json.dumps, lines)))
    expected = "AP over 3 trainings with different seeds: 0.520 ± 0.020"
    assert expected in sections(model_card(run, "me/cells"))["Accuracy"]
    (study / "study.json").write_text(json.dumps({"folds": [["a.jpg"]] * 5}))
    assert "AP over 3 of 5 folds: 0.520 ± 0.020" in sections(model_card(run, "me/cells"))["Accuracy"]


def test_a_run_without_evaluation_or_licence_says_so(run: Path) -> None:
    for name in ("evaluation.json", "truth.json", "predictions.json", "config.yaml", "splits.json", "calibration.json"):
        (run / name).unlink()
    card = model_card(run, "me/cells")
    parts = sections(card)
    assert parts["Accuracy"].strip() == "Not measured."
    assert parts["Training"].strip() == "Imported from another library."
    assert parts["Licence"].startswith("\nNot stated.")
    assert "license" not in yaml.safe_load(card.split("---\n")[1])
