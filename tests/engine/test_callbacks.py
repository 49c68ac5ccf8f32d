import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from focaldet.engine.budget import TimeBudget
from focaldet.engine.config import TrainConfig
from focaldet.engine.train import train


def test_time_left_of_a_budget_is_what_is_not_spent_yet() -> None:
    clock = TimeBudget(2.0)
    clock.before_s = 30.0
    assert clock.left_s(0.7) == pytest.approx(90, abs=1)
    clock.before_s = 500.0
    assert clock.left_s(1.0) == 0


def test_time_left_of_a_run_of_epochs_follows_the_share_that_is_done() -> None:
    clock = TimeBudget(None)
    clock.before_s = 60.0
    assert clock.left_s(0.0) is None
    assert clock.left_s(0.25) == pytest.approx(180, abs=4)
    assert clock.left_s(1.0) == 0


def test_where_val_has_no_object_there_is_no_ap_no_best_and_the_last_weights_are_kept(
    config: TrainConfig, two_cells: Path
) -> None:
    for name in (two_cells / "ImageSets" / "Main" / "val.txt").read_text().split():
        annotation = two_cells / "Annotations" / f"{name}.xml"
        without = two_cells / "Annotations" / f"empty-{name}.xml"
        without.write_text(re.sub("<object>.*</object>", "", annotation.read_text(), flags=re.DOTALL))
        shutil.copy(two_cells / "JPEGImages" / f"{name}.jpg", two_cells / "JPEGImages" / f"empty-{name}.jpg")
    names = (two_cells / "ImageSets" / "Main" / "val.txt").read_text().split()
    (two_cells / "ImageSets" / "Main" / "val.txt").write_text("\n".join(f"empty-{name}" for name in names))
    said: list[str] = []
    run = train(replace(config, data=str(two_cells)), say=said.append)
    measured = [line for line in said if "val AP" in line]
    assert len(measured) == 2
    assert all("val AP –" in line and "best" not in line for line in measured)
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["val"]["AP"] is None
    weights = load_file(run / "model.safetensors")
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, checkpoint[f"average.module.{name}"]) for name, value in weights.items())
