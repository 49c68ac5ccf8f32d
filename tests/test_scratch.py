"""Temporary folders are removed at the end, or by the next process after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from focaldet.scratch import Scratch, scratch

WAITS = "import sys, focaldet.scratch as s; made = s.Scratch(); print(made.path, flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_at_the_end(place: Path) -> None:
    with scratch() as folder:
        (folder / "pixels").write_bytes(b"1")
        assert list(place.iterdir()) == [folder]
    assert list(place.iterdir()) == []


def test_the_folder_of_a_killed_process_goes_with_the_next_one_and_no_other(place: Path) -> None:
    environment = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        (left / "pixels").write_bytes(b"1")
        other = place / "focaldet-tests"
        other.mkdir()
        with scratch() as own:  # the other process lives
            assert {left, other, own} == set(place.iterdir())
        process.send_signal(signal.SIGKILL)
    assert left.is_dir()
    made = Scratch()
    assert {made.path, other} == set(place.iterdir())
    made.remove()


def test_a_forked_process_removes_nothing(place: Path) -> None:
    made = Scratch()
    child = os.fork()
    if not child:
        made.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert made.path.is_dir()
    with scratch():
        assert made.path.is_dir()
    made.remove()
    assert list(place.iterdir()) == []


def test_where_folders_cannot_be_locked_none_is_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focaldet.scratch.lock", lambda handle: None)
    first, second = Scratch(), Scratch()
    assert {first.path, second.path} == set(place.iterdir())
