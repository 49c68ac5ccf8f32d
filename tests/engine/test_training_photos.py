"""A truncated photo ends neither a training nor an evaluation, and is named once."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from power import train_until_power_is_lost
from safetensors.torch import load_file

from cell_photos import write_cells
from focaldet.checks import InputError
from focaldet.data.batching import DetectionDataset
from focaldet.engine.config import TrainConfig
from focaldet.engine.evaluate import evaluate_run
from focaldet.engine.train import train

TRAIN, VAL = range(4), range(4, 6)


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., str]:
    """Makes a folder of six photos, in which the first photo of each given split is truncated."""

    def make(*splits: str) -> str:
        root = write_cells(tmp_path / "broken", {"train": TRAIN, "val": VAL})
        for split in splits:
            name = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().splitlines()[0]
            photo = root / "JPEGImages" / f"{name}.jpg"
            photo.write_bytes(photo.read_bytes()[:6000])
        return str(root)

    return make


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focaldet.engine.train.DetectionDataset", partial(DetectionDataset, cache_bytes=0))


def damaged(lines: list[str]) -> list[str]:
    return [line for line in lines if "damaged image" in line]


def equal_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_truncated_photo_is_named_once_and_a_resumed_run_is_equal_to_the_bit(
    config: TrainConfig, broken: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, data=broken("train"))
    said: list[str] = []
    cached = train(config, say=said.append)
    (line,) = damaged(said)
    assert "the next photo replaces it" in line

    monkeypatch.setattr("focaldet.engine.train.DetectionDataset", partial(DetectionDataset, cache_bytes=0))
    for workers in (0, 2):  # each epoch reads the photos, in this process and in others
        read = replace(config, workers=workers, out=str(tmp_path / f"read-{workers}"))
        said.clear()
        train_until_power_is_lost(read, monkeypatch, say=said.append)
        assert len(damaged(said)) == 1
        assert equal_weights(cached, train(replace(read, resume=True), say=said.append))


@pytest.mark.slow
def test_verify_leaves_a_truncated_photo_out_before_training(
    config: TrainConfig, broken: Callable[..., str], uncached: None
) -> None:
    config = replace(config, data=broken("train", "val"), verify=True, epochs=1)
    said: list[str] = []
    run = train(config, say=said.append)
    assert [line.rsplit("; ")[-1] for line in damaged(said)] == ["left out", "left out"]
    splits = json.loads((run / "splits.json").read_text())
    assert {split: len(names) for split, names in splits.items()} == {"train": 3, "val": 1}
    assert json.loads((run / "evaluation.json").read_text())["images"] == 1


@pytest.mark.slow
def test_a_truncated_photo_of_val_is_named_and_counts_as_one_without_detections(
    config: TrainConfig, broken: Callable[..., str], trained: Path, run: Path
) -> None:
    data = broken("val")
    said: list[str] = []
    train(replace(config, data=data, val_every=1, epochs=2), say=said.append)
    (line,) = damaged(said)  # of two epochs and the evaluation at the end
    assert "without detections" in line

    said.clear()
    report = evaluate_run(run, Path(data), "val", say=said.append)
    assert len(damaged(said)) == 1
    whole = json.loads((trained / "evaluation.json").read_text())
    assert (report["images"], report["objects"]) == (whole["images"], whole["objects"])
    results = json.loads((run / "predictions.json").read_text())
    assert {entry["image_id"] for entry in results} <= {2}


@pytest.mark.parametrize("verify", [False, True])
def test_without_any_photo_to_train_on_one_line_says_so(
    config: TrainConfig, broken: Callable[..., str], verify: bool
) -> None:
    root = Path(broken())
    for name in (root / "ImageSets" / "Main" / "train.txt").read_text().splitlines():
        photo = root / "JPEGImages" / f"{name}.jpg"
        photo.write_bytes(photo.read_bytes()[:6000])
    with pytest.raises(InputError, match="no photo"):
        train(replace(config, data=str(root), verify=verify), say=lambda line: None)
