"""Presets: names for sizes of detectors."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm

from focaldet import train
from focaldet.checks import InputError
from focaldet.commands import train_config
from focaldet.engine.advice import advice
from focaldet.engine.config import TrainConfig
from focaldet.engine.presets import DEFAULT_SIZE, PRESETS, with_preset
from focaldet.engine.spec import spec_of


def test_the_default_preset_has_the_default_options() -> None:
    usual = TrainConfig(data="photos")
    assert replace(usual, **PRESETS[DEFAULT_SIZE]) == usual


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_a_network_with_published_weights(name: str) -> None:
    config = train_config(data="photos", preset=name, pretrained=False)
    assert {option: getattr(config, option) for option in PRESETS[name]} == PRESETS[name]
    net, _ = spec_of(config, ("a", "b")).build()
    assert sum(parameter.numel() for parameter in net.parameters()) > 1e5
    weights = timm.models.get_pretrained_cfg(config.backbone)
    assert weights is not None
    assert weights.has_weights
    assert weights.license in ("apache-2.0", "mit")


def test_a_given_option_wins_over_its_preset() -> None:
    config = train_config(data="photos", preset="nano", channels=48)
    assert (config.backbone, config.channels) == (PRESETS["nano"]["backbone"], 48)


def test_a_preset_replaces_the_values_of_a_config(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(TrainConfig(data="photos", backbone="resnet10t", size=640, lr=1e-3).to_yaml(), encoding="utf-8")
    config = train_config(file, preset="nano")
    assert (config.backbone, config.size, config.lr) == (PRESETS["nano"]["backbone"], PRESETS["nano"]["size"], 1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "nan"}, "--preset nan: unknown; did you mean 'nano'?"),
        (
            {"preset": "nano", "weights": "runs/coco"},
            "--preset nano: cannot be combined with --weights, because the network is that of its run",
        ),
        (
            {"preset": "large", "resume": True, "out": "runs/cells"},
            "--preset large: cannot be combined with --resume, because the run keeps its network",
        ),
    ],
)
def test_a_preset_that_cannot_be_used_is_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as told:
        with_preset(given)
    assert str(told.value) == message
    with pytest.raises(InputError) as told:
        train(data="photos", **given)
    assert str(told.value) == message


def test_few_epochs_ask_for_more_minutes_or_a_faster_preset() -> None:
    usual = TrainConfig(data="photos", minutes=10)
    assert advice(usual, 60.0, on_gpu=False) == ""  # ten epochs
    assert advice(usual, 80.0, on_gpu=False) == (
        "10 minutes allow about 7.5 epochs at this speed, too few for a good AP: give more --minutes, or train faster "
        "with --preset nano"
    )
    assert advice(replace(usual, **PRESETS["nano"]), 80.0, on_gpu=False).endswith("AP: give more --minutes")
    assert advice(replace(usual, channels=256), 80.0, on_gpu=False).endswith("train faster with a smaller network")
    assert advice(replace(usual, minutes=None), 80.0, on_gpu=False) == ""
    assert advice(replace(usual, weights="runs/coco"), 80.0, on_gpu=False) == ""


def test_a_gpu_asks_for_a_larger_preset() -> None:
    line = "this GPU can train larger detectors: --preset large (docs/training.md)"
    for name in PRESETS:
        config = replace(TrainConfig(data="photos"), **PRESETS[name])
        assert advice(config, 5.0, on_gpu=True) == ("" if name == "large" else line)
    assert advice(TrainConfig(data="photos", channels=256), 5.0, on_gpu=True) == ""
