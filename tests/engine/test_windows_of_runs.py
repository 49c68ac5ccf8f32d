"""A run processes photos in windows: in Python, in eval, during training, and in its export."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data.folder import read_folder
from focaldet.engine.compare import detect_labelled
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import evaluate_run
from focaldet.engine.load import load_model
from focaldet.exporting.export import make_file
from focaldet.photos.images import read_photo
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.runtime.window_stream import look_at

SILENT = {"say": lambda line: None}


@pytest.fixture(scope="module")
def tiled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run, as if trained on windows of 64 px, with a score threshold of 0."""
    run = tmp_path_factory.mktemp("tiled") / "run"
    run.mkdir()
    for name in ("model.json", "model.safetensors"):
        (run / name).write_bytes((trained / name).read_bytes())
    document = json.loads((run / "model.json").read_text())
    document |= {"tile": 64, "size": 64, "largest_px": 20, "evaluation_score": 0.0}
    document["reading"]["score_threshold"] = 0.0
    (run / "model.json").write_text(json.dumps(document))
    return run


@pytest.fixture(scope="module")
def photo(cells: Path) -> Path:
    return sorted((cells / "JPEGImages").iterdir())[0]


def test_predict_takes_files_arrays_and_pictures(tiled: Path, photo: Path) -> None:
    detector = Detector.load(tiled)
    assert detector.tiling is not None
    assert (detector.tiling.tile, detector.tiling.overlap) == (64, 25)
    found = detector.predict(photo)
    assert found.side_std_px is not None
    assert len(found) > 0
    pixels = read_photo(photo)
    for image in (str(photo), pixels, Image.fromarray(pixels)):
        assert np.array_equal(detector.predict(image).boxes_xyxy, found.boxes_xyxy)
    whole = Detector.load(tiled, tile=0)
    assert whole.tiling is None
    (in_one_view,) = whole.detect([whole.prepare(pixels)])
    assert np.array_equal(whole.predict(photo).boxes_xyxy, in_one_view.boxes_xyxy)


@pytest.mark.slow
def test_the_export_finds_what_the_run_finds(tiled: Path, photo: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(make_file(Detector.load(tiled), "onnx", "detections")[0])
    exported, run = OnnxDetector.load(file), load_model(tiled)
    assert exported.tiling == run.tiling
    assert run.tiling is not None
    theirs, ours = exported.predict(photo), look_at(run, read_photo(photo), run.tiling)
    assert len(theirs) == len(ours)
    order, own = np.lexsort(theirs.boxes_xyxy.round(1).T), np.lexsort(ours.boxes_xyxy.round(1).T)
    assert np.allclose(theirs.boxes_xyxy[order], ours.boxes_xyxy[own], atol=0.02)
    assert np.allclose(theirs.scores[order], ours.scores[own], atol=1e-4)


def test_eval_measures_what_windows_show(tiled: Path, cells: Path, tmp_path: Path) -> None:
    report = evaluate_run(tiled, cells, "val", **SILENT)
    results = json.loads((tiled / "predictions.json").read_text())
    detector = load_model(tiled)
    assert isinstance(detector, Detector)
    folder = read_folder(cells)
    per_photo = [len(detector.predict(record.path)) for record in folder.splits["val"]]
    assert len(results) == sum(per_photo) > 0
    assert report["max_detections"] == max(100, *per_photo)
    few = evaluate_run(tiled, cells, "val", max_detections=3, **SILENT)
    assert len(json.loads((tiled / "predictions.json").read_text())) == 3 * len(folder.splits["val"])
    assert few["images"] == report["images"]


def test_an_unreadable_photo_counts_as_one_without_detections(tiled: Path, two_cells: Path) -> None:
    first = sorted((two_cells / "JPEGImages").iterdir())[0]
    first.write_bytes(first.read_bytes()[:5000])
    lines: list[str] = []
    evaluate_run(tiled, two_cells, "val", say=lines.append)
    assert any(line.startswith(str(first)) and "without detections" in line for line in lines)
    notes = detect_labelled(tiled, two_cells, split="val").notes
    assert any(note.startswith(f"photo left out: {first}") for note in notes)


def test_val_is_measured_in_windows_while_training(config, again) -> None:
    run = again(tile=64, epochs=1)
    spec = json.loads((run / "model.json").read_text())
    assert spec["tile"] == 64
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    report = json.loads((run / "evaluation.json").read_text())
    assert line["val"]["AP"] == pytest.approx(report["metrics"]["AP"], abs=1e-6)


def test_the_options_reach_every_command(tiled: Path, cells: Path, photo: Path, tmp_path: Path, capsys) -> None:
    windows = ["--tile", "96", "--overlap", "0.5"]
    assert main(["eval", str(tiled), "--data", str(cells), "--split", "val", *windows]) == 0
    assert main(["predict", str(tiled), str(photo), *windows, "--out", str(tmp_path / "a")]) == 0
    assert (
        main(["predict", str(tiled), "--compare", str(cells), "--split", "val", *windows, "--out", str(tmp_path / "b")])
        == 0
    )
    assert main(["eval", str(tiled), "--data", str(cells), "--split", "val", "--overlap", "2.5"]) == 2
    assert "overlap: expected a share" in capsys.readouterr().err


def test_a_limit_is_of_the_photo(tiled: Path, photo: Path) -> None:
    assert len(Detector.load(tiled, max_detections=2).predict(photo)) == 2
    with pytest.raises(InputError, match="max_detections"):
        Detector.load(tiled, max_detections=0)
