"""The whole chain at once: a detector that cannot memorise two photos has a fault."""

import json
import time
from pathlib import Path

import pytest

from focaldet.engine.config import TrainConfig
from focaldet.engine.train import train


@pytest.mark.slow
def test_two_photos_are_learned_by_heart(two_cells: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(two_cells),
        out=str(tmp_path / "run"),
        size=256,
        backbone="mobilenetv3_small_100",
        levels="p3-p7",
        epochs=120,
        batch=2,
        ema=0.9,
        augment="none",
        flips="none",
        val_every=120,
    )
    start = time.process_time()
    run = train(config, say=lambda line: None)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["metrics"]["AP"] >= 0.9
    found = [row["AP"] for row in evaluation["per_class"] if row["objects"]]
    assert len(found) == 2  # there is no platelet in them
    assert min(found) >= 0.9
    assert time.process_time() - start < 2 * 120  # of two cores, whatever else they do meanwhile
