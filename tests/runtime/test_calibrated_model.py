"""A calibration in a model's metadata: its use by ``focaldet predict`` and onnxruntime, without torch."""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrated_colours import CALIBRATION
from colours import BOXES, CARD, colour_model

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.certainty import Certainty
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.runtime.selection import ScoreChoices, select


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of colours with this calibration."""
    file = tmp_path_factory.mktemp("calibrated") / "colours.onnx"
    file.write_bytes(colour_model({KEY: replace(CARD, calibration=CALIBRATION.for_export()).to_json()}))
    return file


@pytest.fixture
def predict(file: Path, photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    """Runs the command on the photo; gives the boxes and what was printed."""

    def call(*options: str, model: Path = file, code: int = 0) -> tuple[list[dict], str]:
        capfd.readouterr()
        assert main(["predict", str(model), str(photo), "--out", str(tmp_path / "out"), *options]) == code
        said = capfd.readouterr()
        if code:
            return [], said.err
        return json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"], said.out

    return call


def named(boxes: list[dict]) -> list[str]:
    return [CARD.class_names[box["category_id"] - 1] for box in boxes]


def test_scores_become_chances_best_first_and_classes_have_their_thresholds(predict) -> None:
    boxes, _ = predict("--score", "0.45")
    assert [(box["score"], box["raw_score"]) for box in boxes] == [
        (pytest.approx(0.9), pytest.approx(0.4)),
        (pytest.approx(0.5), pytest.approx(0.8)),
    ]
    assert named(boxes) == ["blue", "green"]
    assert named(predict()[0]) == ["blue"]  # green has 0.8, and its best F1 is at 0.85
    assert named(predict("--score", "0.6")[0]) == ["blue"]
    assert predict("--score", "0.95")[0] == []


def test_network_scores_are_at_hand(predict) -> None:
    boxes, _ = predict("--no-calibrated")
    assert named(boxes) == ["green", "blue"]
    assert [box["score"] for box in boxes] == pytest.approx([0.8, 0.4])
    assert "raw_score" not in boxes[0]
    _, error = predict("--no-calibrated", "--score", "precision=0.9", code=2)
    assert "has no calibration" in error
    _, error = predict("--no-calibrated", "--coverage", "0.9", code=2)
    assert "focaldet calibrate RUN" in error


def test_promised_precision_shows_only_classes_that_can_keep_it(predict) -> None:
    boxes, said = predict("--score", "precision=0.9")
    assert named(boxes) == ["green"]
    assert "blue: no threshold promises a precision of 90%, so its boxes are left out" in said
    assert "does not reach it" in said
    boxes, said = predict("--score", "precision=0.6")
    assert named(boxes) == ["blue", "green"]
    assert "red: " in said
    _, error = predict("--score", "precision=0.95", code=2)
    assert error.count("\n") == 1


def test_promised_recall_shows_what_it_can_and_says_what_it_would_take(predict, file: Path) -> None:
    card = json.loads(replace(CARD, calibration=CALIBRATION.for_export(), score_threshold=0.02).to_json())
    lower = file.with_name("lower.onnx")
    lower.write_bytes(colour_model({KEY: json.dumps(card)}))
    boxes, said = predict("--score", "recall=0.9", model=lower)
    assert named(boxes) == ["blue", "green"]
    assert "blue: no threshold promises a recall of 90%, so all its boxes are shown" in said
    assert "about 300 more labelled objects than the 200" in said
    _, error = predict("--score", "recall=0.9", code=2)
    assert "was exported with score threshold 0.2" in error


def test_classes_have_thresholds_of_their_own(predict) -> None:
    assert named(predict("--score", "blue=0.95,0.45")[0]) == ["green"]
    assert named(predict("--score", "green=0.45")[0]) == ["blue", "green"]  # blue: its best F1
    boxes, said = predict("--score", "green=precision=0.9,blue=0.95")
    assert named(boxes) == ["green"]
    assert "no threshold" not in said
    assert named(predict("--score", "blue=precision=0.95,green=0.45")[0]) == ["green"]
    assert named(predict("--no-calibrated", "--score", "green=0.9,0.3")[0]) == ["blue"]
    assert "--score gren: no such class; did you mean 'green'?" in predict("--score", "gren=0.4", code=2)[1]
    assert "has no calibration" in predict("--no-calibrated", "--score", "green=recall=0.9", code=2)[1]
    assert "was exported with score threshold" in predict("--score", "blue=recall=0.9", code=2)[1]


def test_names_of_classes_may_have_commas_and_equals_signs() -> None:
    chosen = ScoreChoices.parse("cell, red=0.4,a=b=recall=0.9,precision=precision=0.8,recall=0.7")
    assert {name: str(choice) for name, choice in chosen.of_class.items()} == {
        "cell, red": "0.4",
        "a=b": "recall=0.9",
        "precision": "precision=0.8",
    }
    assert str(chosen.others) == "recall=0.7"


def test_least_score_of_a_file_is_told_in_chances(predict) -> None:
    _, error = predict("--score", "0.3", code=2)  # for green and blue, 0.2 is a chance of 0.125 and 0.45
    assert "score: expected a number in [0.45, 1), got 0.3" in error


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("high", "--score: expected a number, precision=0.95 or recall=0.9, got 'high'"),
        ("0.3,0.4", "--score: got two values for all other classes"),
        ("a=0.3,a=0.4", "--score: got two values for a"),
        ("a=recall=high", "--score: expected a number, precision=0.95"),
        ("a=2", "score: expected a number in [0, 1), got 2"),
        ("precision=", "--score: expected a number, precision=0.95"),
        ("precision=1_0", "--score: expected a number, precision=0.95"),
        ("recall=0.2", "--score recall: expected 0.5 to 0.99, got 0.2"),
        ("precision=nan", "--score precision: expected 0.5 to 0.99"),
        ("nan", "score: expected a number in [0, 1)"),
        ("1", "score: expected a number in [0, 1), got 1"),
    ],
)
def test_other_values_of_score_are_refused(score: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        ScoreChoices.parse(score)
    assert words in str(error.value)


def test_bands_are_around_the_sides(predict) -> None:
    boxes, said = predict("--score", "0.5", "--coverage", "0.9")
    assert said.count("\n") == 1
    (blue,) = boxes
    box = BOXES[2] * [80, 60, 80, 60]
    deviation = box / 10
    assert blue["side_low"] == pytest.approx(np.clip(box - 1.8 * deviation, 0, [80, 60, 80, 60]).tolist(), abs=1e-3)
    assert blue["side_high"] == pytest.approx(np.clip(box + 1.8 * deviation, 0, [80, 60, 80, 60]).tolist(), abs=1e-3)


def test_coverage_that_a_group_cannot_promise_is_told(predict) -> None:
    boxes, said = predict("--score", "0.5", "--coverage", "0.97")
    assert "too few boxes to promise a coverage of 97%" in said
    assert "group of 2" in said
    assert boxes[0]["side_low"] == [0, 0, 0, 0]
    assert boxes[0]["side_high"] == [80, 60, 80, 60]
    for wrong in ("0.3", "1.0"):
        assert "coverage: expected 0.5 to 0.99" in predict("--coverage", wrong, code=2)[1]


def test_ranking_within_a_class_stays(photo: Path) -> None:
    rng = np.random.default_rng(0)
    scores = np.sort(rng.uniform(0.02, 1, 2000).astype(np.float32))[::-1]
    labels = rng.integers(0, 3, 2000)
    found = DetectionArrays(rng.uniform(0, 9, (2000, 4)).astype(np.float32), scores, labels, None)
    calibrated = Certainty(CALIBRATION).calibrated(found)
    assert (np.diff(calibrated.scores) <= 0).all()
    for label in range(3):
        here, there = labels == label, calibrated.labels == label
        assert (calibrated.raw_scores[there] == scores[here]).all()
        assert (calibrated.boxes_xyxy[there] == found.boxes_xyxy[here]).all()


def test_threshold_picks_the_detection_that_has_it() -> None:
    picked = select(ScoreChoices(), Certainty(CALIBRATION), CALIBRATION.class_names)
    scores = np.array([0.850001, 0.849999, 0.84, 0.35], np.float32)
    found = Certainty(CALIBRATION).calibrated(
        DetectionArrays(np.zeros((4, 4), np.float32), scores, np.array([1, 1, 1, 2]), None)
    )
    assert sorted(picked(found, (9, 9)).raw_scores.round(3).tolist()) == pytest.approx([0.35, 0.85, 0.85])


def test_card_carries_the_calibration_and_checks_it() -> None:
    card = replace(CARD, calibration=CALIBRATION.for_export())
    assert ModelCard.from_json(card.to_json()) == card
    older = json.loads(CARD.to_json())
    del older["calibration"]
    assert ModelCard.from_json(json.dumps(older)) == CARD
    for broken in (
        {"format": 1},
        CALIBRATION.for_export() | {"class_maps": [0, 1, 7]},
        CALIBRATION.for_export() | {"class_names": ["a", "b", "c"]},
        CALIBRATION.for_export() | {"format": 9},
    ):
        with pytest.raises(InputError, match="model card"):
            ModelCard.from_json(replace(CARD, calibration=broken).to_json())


def test_calibrated_file_is_used_without_torch_scipy_and_scikit_learn(file: Path, photo: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'scipy', 'sklearn', 'matplotlib'): sys.modules[name] = None\n"
        "from focaldet.engine.load import load_selected\n"
        "from focaldet.runtime.selection import ScoreChoices\n"
        "from pathlib import Path\n"
        f"model, pick = load_selected(Path({str(file)!r}), ScoreChoices.parse('precision=0.6'), coverage=0.9)\n"
        f"found = pick(model.predict({str(photo)!r}), (60, 80))\n"
        "print([round(score, 3) for score in found.scores.tolist()], found.side_low_px.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0.9, 0.5] (2, 4)"


def test_three_lines_of_the_documentation_give_the_same_chances(file: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    code = re.search(r"(    def chance\(card, label, score\):.*?)\n\n", page, re.DOTALL).group(1)
    names = {"np": np}
    exec(textwrap.dedent(code), names)  # the documentation's own code
    card = json.loads(OnnxDetector.load(file).session.get_modelmeta().custom_metadata_map[KEY])
    for label in range(3):
        for score in (0.0, 0.3, 0.8, 1.0):
            expected = Certainty(CALIBRATION).chances([score], [label])[0]
            assert names["chance"](card, label, score) == pytest.approx(expected)


def test_calibration_can_be_left_out_in_python(file: Path, photo: Path) -> None:
    assert OnnxDetector.load(file).predict(photo).scores.tolist() == pytest.approx([0.9, 0.5])
    assert OnnxDetector.load(file, calibrated=False).predict(photo).scores.tolist() == pytest.approx([0.8, 0.4])
