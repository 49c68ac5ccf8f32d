"""``focaldet tune`` on six photos: resumed, pruned, and with a command that repeats the best."""

from pathlib import Path

import pytest

pytest.importorskip("optuna")

from focaldet.checks import InputError
from focaldet.cli import build_parser
from focaldet.commands import train_config
from focaldet.study.tune import run_tune


@pytest.fixture
def given(cells: Path) -> dict:
    return {
        "data": str(cells),
        "backbone": "mobilenetv3_small_050",
        "size": 64,
        "levels": "p3-p7",
        "channels": 16,
        "head_depth": 1,
        "batch": 2,
        "epochs": 1,
        "logger": "none",
        "pretrained": False,
    }


@pytest.mark.filterwarnings("ignore")
def test_a_search_is_continued_and_its_command_can_be_run(given: dict, tmp_path: Path) -> None:
    out = tmp_path / "search"
    said: list[str] = []
    run_tune(given, out=out, trials=1, seeds=2, space=["lr", "augment"], say=said.append)
    assert [line for line in said if line.startswith("trial")] == [
        line for line in said if line.startswith("trial 0: --lr 0.003 --augment light: val AP ")
    ]
    run_tune(given, out=out, trials=2, seeds=2, space=["lr", "augment"], say=said.append)
    assert sum(line.startswith("trial 0") for line in said) == 1
    assert sum(line.startswith("trial 1") for line in said) == 1
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["0-0", "0-1", "1-0", "1-1"]
    result = (out / "result.txt").read_text()
    assert "(the default options)" in result
    words = result.strip().splitlines()[-1].split()
    assert words[:2] == ["focaldet", "train"]
    config = train_config(**vars(build_parser()[1]["train"].read(words[2:])))
    assert (config.data, config.epochs, config.pretrained) == (given["data"], 1, False)
    with pytest.raises(InputError, match="the search in this folder has seeds 2, not 1"):
        run_tune(given, out=out, trials=3, seeds=1, space=["lr", "augment"], say=said.append)


def test_what_cannot_be_searched_is_named(given: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--space lrr: cannot be searched; did you mean 'lr'"):
        run_tune(given, out=tmp_path / "search", space=["lrr"])
    with pytest.raises(InputError, match="nothing left to search"):
        run_tune(given | {"lr": 0.1}, out=tmp_path / "search", space=["lr"])
    assert not (tmp_path / "search").exists()
