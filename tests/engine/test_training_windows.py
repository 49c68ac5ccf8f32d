"""Runs that are trained on windows of the photos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from power import train_until_power_is_lost
from safetensors.torch import load_file

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.data.folder import read_folder
from focaldet.data.windows import WindowDataset
from focaldet.engine import train as training
from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.evaluate import evaluate_run
from focaldet.engine.finetune import network_options
from focaldet.engine.spec import read_spec
from focaldet.engine.train import train
from focaldet.engine.windows import other_sizes, with_tile
from focaldet.photos import regions


def tiled(config: TrainConfig) -> TrainConfig:
    return replace(config, tile=256, epochs=2, val_every=2)


def test_the_tile_is_the_size(config: TrainConfig) -> None:
    assert tiled(config).size == 256
    assert replace(config, tile="auto").size == config.size  # until the photos have been measured


@pytest.mark.parametrize("tile", [31, 5000, 0, -1])
def test_a_tile_out_of_range_is_one_line(tile: int, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(cells), "--tile", str(tile)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("focaldet: --tile: expected 32 to 4096, got") or "--tile" in line


@pytest.mark.parametrize("value", ["wide", "1.5"])
def test_a_tile_that_is_no_number_is_one_line(value: str, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(cells), "--tile", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--tile" in line


def test_auto_is_chosen_by_the_training_photos_and_said(config: TrainConfig, cells: Path) -> None:
    said: list[str] = []
    chosen = with_tile(replace(config, tile="auto"), read_folder(cells), said.append)
    (line,) = said
    assert isinstance(chosen.tile, int)
    assert chosen.tile == chosen.size
    assert line.startswith(f"--tile auto: windows of {chosen.tile:,} px (the median object has")


def test_without_windows_it_is_said_when_they_are_needed(config: TrainConfig, cells: Path) -> None:
    said: list[str] = []
    assert with_tile(config, read_folder(cells), said.append) == config
    assert any("train on windows of the photos at their own resolution with --tile auto" in line for line in said)
    said.clear()
    with_tile(tiled(config), read_folder(cells), said.append)
    assert said == []


@pytest.mark.slow
def test_a_run_on_windows_records_them_and_gives_them_to_its_heirs(config: TrainConfig) -> None:
    said: list[str] = []
    run = train(tiled(config), say=said.append)
    spec = read_spec(run / "model.json")
    assert (spec.tile, spec.size) == (256, 256)
    assert 80 < spec.object_px < 130  # red cells, in pixels of the photo
    assert spec.largest_px > spec.object_px
    assert load_config(run / "config.yaml").tile == 256
    assert any("16 windows of 4 photos" in line for line in said)
    assert network_options(run)["tile"] == 256


def test_a_tile_that_is_not_the_size_is_refused_in_model_json(run: Path) -> None:
    file = run / "model.json"
    values = json.loads(file.read_text())
    assert values["tile"] is None
    file.write_text(json.dumps(values | {"tile": 128}))
    with pytest.raises(InputError, match="tile: expected nothing or the size, 64, got 128"):
        read_spec(file)
    for name in ("tile", "object_px", "largest_px"):  # files of before
        values.pop(name)
    file.write_text(json.dumps(values))
    assert read_spec(file).tile is None


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_broken_run_on_windows_resumes_to_the_same_bits_from_memory_and_from_files(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiled(config)
    cached = train(config, say=lambda line: None)
    monkeypatch.setattr(regions, "IN_MEMORY", 1000)

    def uncached(*args: Any, **options: Any) -> WindowDataset:
        return WindowDataset(*args, **options, cache_bytes=0)

    monkeypatch.setattr(training, "WindowDataset", uncached)
    read = replace(config, workers=2, out=str(tmp_path / "read"))
    train_until_power_is_lost(read, monkeypatch, epoch=1)
    assert same_weights(cached, train(replace(read, resume=True), say=lambda line: None))


def test_eval_says_when_objects_have_another_size_than_in_training(run: Path, cells: Path) -> None:
    spec = read_spec(run / "model.json")
    records = read_folder(cells).splits["val"]
    assert other_sizes(spec, "val", records) == ""
    spec = replace(spec, object_px=spec.object_px / 2)
    assert "objects of val are" in other_sizes(spec, "val", records)
    assert other_sizes(replace(spec, object_px=None), "val", records) == ""
    assert other_sizes(replace(spec, tile=64), "val", records) == ""
    values = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(values | {"object_px": values["object_px"] / 2}))
    said: list[str] = []
    evaluate_run(run, cells, "val", say=said.append)
    assert any("times as large as those of the training photos" in line for line in said)


def test_data_check_suggests_windows_and_compares_splits(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(cells), "--size", "64"]) == 0
    printed = capsys.readouterr().out
    assert "train on windows of the photos at their own resolution with --tile auto" in printed
    assert main(["data", "check", str(cells), "--size", "640"]) == 0
    assert "--tile" not in capsys.readouterr().out
