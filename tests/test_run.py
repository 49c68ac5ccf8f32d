"""Training and runs from Python: the same work, files and messages as on the command line."""

import io
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from PIL import Image

import focaldet
from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.engine.config import TrainConfig
from focaldet.files import write_json
from focaldet.photos.images import read_photo

TINY: dict[str, Any] = {
    "backbone": "mobilenetv3_small_050",
    "size": 64,
    "levels": "p3-p7",
    "channels": 16,
    "head_depth": 1,
    "batch": 2,
    "pretrained": False,
}


def silence(line: str) -> None:
    pass


@pytest.fixture
def photo(cells: Path) -> Path:
    return next((cells / "JPEGImages").iterdir())


class Recorder(L.Callback):
    def __init__(self) -> None:
        self.steps = 0
        self.losses: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.steps += 1
        self.losses.append(module.shown)
        trainer.should_stop = self.steps >= 3


def test_a_training_with_a_callback(cells: Path, tmp_path: Path) -> None:
    recorder, lines = Recorder(), []
    run = focaldet.train(
        data=cells, out=tmp_path / "run", epochs=50, callbacks=[recorder], say=lines.append, seed=3, **TINY
    )
    assert isinstance(run, focaldet.Run)
    assert run.path == tmp_path / "run"
    assert 3 <= recorder.steps < 10, "the callback ended it"
    assert {"loss", "class", "box"} <= set(recorder.losses[-1])
    assert any(line.startswith("training gfl on 4 photos") for line in lines)
    assert run.config == TrainConfig(data=str(cells), out=str(tmp_path / "run"), epochs=50, seed=3, **TINY)
    assert run.metrics[-1]["step"] == recorder.steps
    assert run.evaluation["split"] == "val"


def test_a_run_continues(run: Path) -> None:
    before = focaldet.Run(run).metrics
    resumed = focaldet.train(out=run, resume=True, epochs=5, say=silence)
    assert len(resumed.metrics) == len(before) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "train: --data DIR is missing"),
        ({"data": "x", "minute": 3}, "train: unknown option 'minute'; did you mean 'minutes'?"),
        ({"data": "x", "method": "glf"}, "--method: unknown value 'glf'; did you mean 'gfl'?"),
        ({"data": "x", "minutes": -1}, "--minutes: expected more than 0"),
        ({"data": "x", "weights": "nowhere"}, "--weights nowhere: no such run folder"),
        ({"data": "nowhere", "out": "new"}, "nowhere"),
    ],
)
def test_a_mistake_is_told_as_on_the_command_line(
    options: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if "out" in options:
        options["out"] = str(tmp_path / "new")
    with pytest.raises(InputError) as caught:
        focaldet.train(**options)
    assert message in str(caught.value)
    if not {"minute", "method"} & set(options):  # argparse knows other names and other words itself
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        capfd.readouterr()
        assert main(["train", *arguments]) == 2
        assert capfd.readouterr().err == f"focaldet: {caught.value}\n"


def test_photos_of_every_kind_are_the_same_photo(trained: Path, photo: Path) -> None:
    run = focaldet.Run(trained)
    pixels = read_photo(photo)
    kinds = [photo, str(photo), Image.fromarray(pixels), pixels]
    results = run.predict(kinds, score=0.001)
    assert len(results) == 4
    for found in results:
        assert found.boxes_xyxy.tolist() == results[0].boxes_xyxy.tolist()
        assert found.names == [run.class_names[label] for label in found.labels]
    assert len(results[0]) >= 1
    alone = run.predict(photo, score=0.001)
    assert alone.scores.tolist() == results[0].scores.tolist()
    assert repr(alone).endswith("640 × 480 px>")
    assert f"{alone.names.count('RBC')} RBC" in repr(alone)
    assert repr(run.predict(photo, score=0.99)) == "<nothing in 640 × 480 px>"


def test_a_prediction_is_what_the_command_writes(trained: Path, photo: Path, tmp_path: Path) -> None:
    assert main(["predict", str(trained), str(photo), "--out", str(tmp_path), "--score", "0.01"]) == 0
    found = focaldet.Run(trained).predict(photo, score=0.01)
    document = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["score"] for row in document["annotations"]] == pytest.approx(found.scores.tolist(), abs=1e-5)
    drawn = read_photo(tmp_path / f"{photo.stem}.png")
    assert bool((np.asarray(found.draw()) == drawn).all())
    with Image.open(io.BytesIO(found._repr_png_()), formats=["PNG"]) as shown:
        assert bool((np.asarray(shown) == drawn).all())
    found.save(tmp_path / "own.jpg")
    assert (tmp_path / "own.jpg").read_bytes().startswith(b"\xff\xd8")  # JPEG
    with pytest.raises(InputError, match="expected a name that ends in"):
        found.save(tmp_path / "own.txt")
    assert len(focaldet.to_supervision(found, found.class_names)) == len(found)


def test_what_the_run_cannot_promise_is_told(trained: Path, photo: Path, tmp_path: Path) -> None:
    run = focaldet.Run(trained)
    with pytest.raises(InputError, match="the model has no calibration"):
        run.predict(photo, score="precision=0.95")
    with pytest.raises(InputError, match="the model has no calibration"):
        run.predict(photo, coverage=0.9)
    with pytest.raises(InputError, match="no such image file"):
        run.predict(tmp_path / "none.jpg")


def test_a_run_is_measured_and_reported(run: Path, cells: Path) -> None:
    opened, lines = focaldet.Run(run), []
    report = opened.evaluate(say=lines.append)  # its own data; they have no test split
    assert report["split"] == "val"
    assert report == opened.evaluation
    assert lines[0].startswith("val: 2 photos")
    assert opened.evaluate(cells, "train", say=silence)["images"] == 4
    assert opened.report() == run / "report.html"
    assert opened.report(run / "both.html", beside=[focaldet.Run(run)]).exists()
    assert repr(opened).startswith(f"Run('{run}': 3 classes")
    detector = opened.detector(device="cpu")
    assert detector.class_names == opened.class_names


def test_a_calibration_needs_photos_that_did_not_train_it(run: Path) -> None:
    with pytest.raises(InputError, match="trained the detector"):
        focaldet.Run(run).calibrate(split="train", say=silence)


def test_what_is_no_run_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        focaldet.Run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"model.json: no such file"):
        focaldet.Run(tmp_path)
    write_json(tmp_path / "model.json", {"names": []})
    with pytest.raises(InputError, match="not a model of focaldet"):
        focaldet.Run(tmp_path)
    (run / "config.yaml").unlink()
    with pytest.raises(InputError, match="was not trained here; pass a folder of labelled photos"):
        focaldet.Run(run).evaluate()


def test_the_configuration_of_a_run_repeats_it(trained: Path, tmp_path: Path) -> None:
    again = focaldet.train(config=trained / "config.yaml", out=tmp_path / "again", say=silence)
    assert (again.path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert again.config.epochs == focaldet.Run(trained).config.epochs == 4
