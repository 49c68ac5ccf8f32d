from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def shared_data(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {name} beside the repository, in ../shared/data")
    return SHARED / name


@pytest.fixture
def bccd() -> Path:
    return shared_data("bccd")


@pytest.fixture
def coco_photos() -> Path:
    return shared_data("coco_photos")
