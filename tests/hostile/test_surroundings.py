"""What a command says in strange surroundings: variables, a full disk behind stderr, names without an end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.engine.processes import check_ranks
from focaldet.terminal import MOST_SAID, say


@pytest.mark.parametrize("value", ["x", "-1", "", "\u0663"])
def test_a_place_of_a_process_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    check_ranks()
    monkeypatch.setenv("LOCAL_RANK", value)
    with pytest.raises(InputError, match="LOCAL_RANK: expected the number of a process"):
        check_ranks()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_mistake_that_cannot_be_told_has_its_exit_code() -> None:
    command = [sys.executable, "-c", "import sys; from focaldet.terminal import mistake; sys.exit(mistake('x'))"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stderr=full, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False
        )
    assert done.returncode == 2


def test_a_line_has_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    say("a class\n" + "x" * 10**6 + " 7")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "a class"
    assert len(second) == MOST_SAID
    assert second.endswith("x 7")
