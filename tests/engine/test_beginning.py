"""Default weights and default pyramid levels of a training."""

from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.engine.beginning import with_chosen_weights
from focaldet.engine.config import TrainConfig
from focaldet.engine.pyramid import with_levels


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


@pytest.mark.parametrize(
    ("given", "levels", "head_depth", "num_bins"),
    [
        ({"size": 320}, "p2-p6", 1, 9),  # platelets have 19 px, one class of three
        ({"size": 640}, "p3-p7", 2, 17),  # 38 px
        ({"size": 320, "tile": 320}, "p3-p7", 2, 17),  # at the photos' own resolution
        ({"size": 320, "head_depth": 3, "num_bins": 12}, "p2-p6", 3, 12),
        ({"size": 320, "levels": "p3-p7"}, "p3-p7", 2, 17),
        ({"size": 320, "weights": "runs/cells-1"}, "p3-p7", 2, 17),
        ({"size": 320, "backbone": "test_vit"}, "p3-p7", 2, 17),  # no map of stride 4
    ],
)
def test_levels_follow_the_sizes_of_the_objects(
    cells: Path, asked: TrainConfig, given: dict[str, object], levels: str, head_depth: int, num_bins: int
) -> None:
    lines: list[str] = []
    chosen = with_levels(replace(asked, **given), read_folder(cells), lines.append)
    assert (chosen.levels, chosen.head_depth, chosen.num_bins) == (levels, head_depth, num_bins)
    assert any(line.startswith("levels p2-p6 (stride 4), because the median object is small") for line in lines) == (
        levels == "p2-p6"
    )
    assert chosen == replace(asked, **(given | {"levels": levels}))
