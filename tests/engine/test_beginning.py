"""From which weights a training starts when nobody says."""

from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.engine.beginning import with_chosen_weights
from focaldet.engine.config import TrainConfig


@pytest.fixture
def asked() -> TrainConfig:
    return TrainConfig(data="cells", backbone="mobilenetv3_small_050")


def test_where_nothing_can_be_fetched_a_line_says_so_and_the_training_starts_from_scratch(
    asked: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    lines: list[str] = []
    assert asked.pretrained == "auto"
    assert with_chosen_weights(asked, lines.append) == replace(asked, pretrained=False)
    (line,) = lines
    assert line.startswith("training from scratch: timm/mobilenetv3_small_050.lamb_in1k: cannot be downloaded (HF_HUB_")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"pretrained": True}, True),
        ({"pretrained": False}, False),
        ({"backbone_weights": "net.safetensors"}, False),
        ({"weights": "runs/cells-1"}, False),
    ],
)
def test_who_says_it_is_asked_nothing(asked: TrainConfig, given: dict[str, object], chosen: bool) -> None:
    lines: list[str] = []
    assert with_chosen_weights(replace(asked, **given), lines.append).pretrained is chosen
    assert lines == []


def test_an_unknown_backbone_is_told_before_anything_is_fetched(asked: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"timm .* has no such network; did you mean 'resnet18'"):
        with_chosen_weights(replace(asked, backbone="resnet18x"), print)
