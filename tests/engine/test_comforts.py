"""Early stopping and loggers."""

import csv
import os
import sqlite3
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.engine.config import TrainConfig
from focaldet.engine.loggers import check_loggers
from focaldet.engine.train import train


def test_a_run_without_gain_ends_early_says_so_and_keeps_the_best(config: TrainConfig) -> None:
    said: list[str] = []
    run = train(replace(config, epochs=9, val_every=1, lr=0.0, ema=0.0, freeze_norm=True, patience=2), say=said.append)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    (line,) = [line for line in said if line.startswith("ended early")]
    assert "in epoch 3: val AP was measured 2 times in a row without exceeding 0.0" in line
    assert (run / "model.json").exists()


def test_patience_needs_photos_to_measure(config: TrainConfig) -> None:
    folder = read_folder(config.data)
    folder = replace(folder, splits={"train": folder.splits["train"]})
    with pytest.raises(InputError, match=r"--patience: .* has no val split"):
        train(replace(config, patience=1), folder=folder, say=lambda line: None)


def test_csv_and_tensorboard_get_losses_and_ap(config: TrainConfig) -> None:
    run = train(replace(config, logger="csv,tensorboard"), say=lambda line: None)
    with (run / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["val/AP"]] == ["4", "8"]
    assert any(float(row["loss"] or 0) > 0 for row in rows)
    assert "augment: light" in (run / "csv" / "version_0" / "hparams.yaml").read_text()
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/AP")] == [4, 8]


def test_no_logger_leaves_no_folder(config: TrainConfig) -> None:
    run = train(replace(config, logger="none", epochs=1), say=lambda line: None)
    assert not (run / "tensorboard").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [("tensorbord", "unknown name 'tensorbord'; did you mean 'tensorboard'"), ("none,csv", "unknown name 'none'")],
)
def test_a_logger_that_is_not_known_is_named(names: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_loggers(names)


def test_a_logger_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focaldet.engine.loggers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--logger mlflow: mlflow is not installed; pip install mlflow"):
        check_loggers("mlflow")


@pytest.mark.filterwarnings("ignore")
def test_mlflow_writes_into_the_run(config: TrainConfig) -> None:
    pytest.importorskip("mlflow")
    run = train(replace(config, logger="mlflow"), say=lambda line: None)
    with sqlite3.connect(run / "mlflow.db") as database:
        keys = {key for (key,) in database.execute("select distinct key from metrics")}
    assert {"loss", "val/AP"} <= keys


@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_into_the_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train(replace(config, logger="wandb"), say=lambda line: None)
    assert [name for name in os.listdir(run / "wandb") if name.startswith("offline-run")]
