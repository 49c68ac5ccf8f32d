"""Messages of a command in strange surroundings: variables, a full disk behind stderr, endless names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.engine.processes import check_ranks
from focaldet.terminal import MAX_SAID, say


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
        done = subprocess.run(command, stderr=full, env=environment(), check=False)
    assert done.returncode == 2


def test_a_line_has_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    say("a class\n" + "x" * 10**6 + " 7")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "a class"
    assert len(second) == MAX_SAID
    assert second.endswith("x 7")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="devices of Linux")
def test_a_folder_that_is_gone_and_a_disk_that_is_full_end_with_2(tmp_path: Path) -> None:
    script = f'cd {tmp_path} && mkdir gone && cd gone && rmdir ../gone && exec "$@" 2>/dev/full'
    done = subprocess.run(["sh", "-c", script, "sh", sys.executable, "-m", "focaldet"], env=environment(), check=False)
    assert done.returncode == 2


def test_output_that_is_closed_takes_every_character() -> None:
    code = "from focaldet.terminal import exit_code, say; exit(exit_code(lambda: say('\\u221a')))"
    variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(command, env=environment(**variables), check=False).returncode == 0


def test_onnxruntime_does_not_report_its_use() -> None:
    code = "import os, focaldet; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
