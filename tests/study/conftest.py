"""The smallest study: its options and its folder."""

from pathlib import Path

import pytest

TINY = {
    "backbone": "mobilenetv3_small_050",
    "size": 64,
    "levels": "p3-p7",
    "channels": 16,
    "head_depth": 1,
    "epochs": 2,
    "batch": 2,
}


@pytest.fixture(scope="session")
def given(cells: Path) -> dict:
    """Options of ``focaldet study``; tests may add options but not change these."""
    return {"data": str(cells), **TINY}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "study"
