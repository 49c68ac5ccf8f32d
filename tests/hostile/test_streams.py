"""Output to nowhere, to a full disk, to a closed pipe, to an ASCII terminal; and Ctrl-C at any time."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_labels import write_coco


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams") / "coco ä\udcff"
    write_coco(folder)
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "focaldet", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def shell(line: str, coco: Path, **more: str) -> subprocess.CompletedProcess[str]:
    words = environment(PYTHON=sys.executable, DATA=str(coco), **more)
    return subprocess.run(["sh", "-c", line], env=words, capture_output=True, text=True, errors="replace", check=False)


CHECK = '"$PYTHON" -m focaldet data check "$DATA"'


@pytest.mark.slow
def test_output_that_is_closed_ends_no_command(coco: Path) -> None:
    for mode in ("", "1"):  # Python's development mode warns of a file that is never closed
        done = shell(f"{CHECK} >&-", coco, PYTHONDEVMODE=mode)
        assert (done.returncode, done.stderr) == (0, "")
    done = shell(f"{CHECK} >&- 2>&- <&-", coco)
    assert done.returncode == 0


@pytest.mark.slow
def test_a_full_disk_behind_the_output_is_one_line(coco: Path) -> None:
    done = shell(f"{CHECK} >/dev/full", coco)
    assert done.returncode == 2
    assert done.stderr == "focaldet: output: the disk is full; free some space\n"


@pytest.mark.slow
def test_a_reader_who_leaves_is_no_fault(coco: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command("data", "check", coco), env=environment(), stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_a_terminal_of_ascii_gets_numbers_for_what_it_cannot_print(coco: Path) -> None:
    done = shell(CHECK, coco, LC_ALL="C", PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "cat" in done.stdout
    done = shell('"$PYTHON" -m focaldet predict nothing "$DATA/ä"', coco, LC_ALL="C", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_a_command_in_one_line_whenever_it_comes(coco: Path) -> None:
    rng = random.Random(0)
    for _ in range(6):
        started = subprocess.Popen(
            command("data", "check", coco), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(rng.uniform(0.1, 1.2))  # Python itself takes 50 ms to begin
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=30)
        assert started.returncode in (0, 130, -signal.SIGINT)
        assert errors in (b"", b"focaldet: stopped\n"), errors
