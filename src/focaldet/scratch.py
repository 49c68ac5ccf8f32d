"""Temporary folders of this process. Leftovers of killed processes are removed when the next one is created."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from focaldet.files import lock

_PREFIX = "focaldet-scratch-"


class Scratch:
    """A new temporary folder. This process and its forks hold a lock on it as long as they live.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self._owner = os.getpid()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._handle = _held(self.path)
            if self.path.is_dir():  # no other process removed it before it was locked
                return
            self._let_go()

    def remove(self) -> None:
        """Remove the folder; do nothing in a process forked from this one."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.path, ignore_errors=True)
            self._let_go()

    def _let_go(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is removed at the end."""
    made = Scratch()
    try:
        yield made.path
    finally:
        made.remove()


def _held(folder: Path) -> int | None:
    """A handle with a lock on a folder, or ``None`` if a folder cannot be locked here or another process holds it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        if lock(handle):
            return handle
        os.close(handle)
    return None


def _sweep(folder: Path) -> None:
    with os.scandir(folder) as entries:
        names = [Path(entry.path) for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        handle = _held(name)
        if handle is not None:
            shutil.rmtree(name, ignore_errors=True)
            os.close(handle)
