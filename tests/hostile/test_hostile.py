"""A few of the fuzzer's quick cases; ``make fuzz`` tries thousands (fuzz.py)."""

from pathlib import Path

import pytest
from fuzz import shared_out
from hostile_cases import KINDS
from hostile_judge import judge
from hostile_mutations import MUTATIONS
from hostile_samples import make_samples

SLOW = {
    "files of a run",
    "files of a study, page",
    "splits.json",
    "tensors of a checkpoint",
    "model.json, weights",
    "a run that is measured",
    "surroundings",
}
LABELS = {"COCO", "Pascal VOC", "YOLO"}
QUICK = [kind for kind in KINDS if kind not in SLOW | LABELS]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "samples"
    folder.mkdir()
    make_samples(folder)
    return folder


def test_hostile_files_and_arguments_end_in_one_line(samples: Path) -> None:
    # In this process: one that has threads is not to be forked.
    verdicts = [judge(kind, 0, number, samples) for kind, number in shared_out(4 * len(QUICK), QUICK)]
    assert [(v.kind, v.number, v.fault) for v in verdicts if v.fault] == []
    assert len(verdicts) == 4 * len(QUICK)
    assert {v.code for v in verdicts} == {0, 2}


def test_a_case_is_the_same_whenever_it_is_made(samples: Path) -> None:
    first, again = (judge("exported model", 7, 3, samples) for _ in range(2))
    assert (first.code, first.fault) == (again.code, again.fault)


@pytest.mark.parametrize("suffix", MUTATIONS)
def test_damage_follows_from_the_seed(suffix: str) -> None:
    import random

    data = {".json": b'{"a": [1, 2]}', ".jsonl": b'{"a": 1}\n{"a": 2}\n', ".yaml": b"a: 1\nb: [2]\n"}[suffix]
    made = [[MUTATIONS[suffix](data, random.Random(n)) for n in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 25
