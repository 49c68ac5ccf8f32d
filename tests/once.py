"""Resources shared by several test processes; the first process that needs one makes it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A new folder that ``make`` fills, once for all processes; do not change it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    while not (folder / "done").exists():
        try:
            folder.mkdir()
        except FileExistsError:  # another process is making it
            time.sleep(0.1)
            continue
        try:
            make(folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        (folder / "done").touch()
    return folder
