"""The whole chain at once: what cannot learn two photos by heart has a fault."""

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
        epochs=120,
        batch=2,
        ema=0.9,
        augment="none",
        flips="none",
        val_every=40,
    )
    start = time.monotonic()
    run = train(config, say=lambda line: None)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["metrics"]["AP"] >= 0.9
    assert {row["name"]: row["AP"] >= 0.8 for row in evaluation["per_class"]} == {
        "Platelets": True,
        "RBC": True,
        "WBC": True,
    }
    assert time.monotonic() - start < 120
