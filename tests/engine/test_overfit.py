"""The whole chain at once: a detector that cannot memorise two photos has a fault."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_photos_are_learned_by_heart(learned: Path) -> None:
    evaluation = json.loads((learned / "run" / "evaluation.json").read_text())
    assert evaluation["metrics"]["AP"] >= 0.9
    found = [row["AP"] for row in evaluation["per_class"] if row["objects"]]
    assert len(found) == 2  # there is no platelet in them
    assert min(found) >= 0.9
    *_, last = (learned / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["minutes"] < 4
