"""A few real photos as a data folder, and a run on them, made once."""

import gc
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test asks the network

from shapes import check_shapes

check_shapes()

from browser import Browser  # noqa: E402
from cell_photos import BCCD, write_cells  # noqa: E402
from drawn_photos import drawn_coco  # noqa: E402
from focaldet.engine.config import TrainConfig  # noqa: E402
from once import made_once  # noqa: E402


def pytest_configure() -> None:
    """Nobody listens to torch's trace of itself.

    Where somebody does, torch writes down each step of compiling and exporting, at three times the work; and pytest
    listens to every logger that does not pass its messages on, of which this is one. torch finds it as it is left here,
    whenever it is imported.
    """
    logging.getLogger("torch.__trace").addHandler = lambda handler: None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays, some 600,000 objects with torch and lightning. Python's collector would go through them
    again and again, for a sixth of the time of the quick tests."""
    gc.disable()
    done = yield
    gc.enable()
    gc.freeze()
    return done


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """For the tests of one file."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six blood cell photos: four to train, two to validate."""
    splits = {"train": range(4), "val": range(4, 6)}
    return made_once(tmp_path_factory, "photos", lambda folder: write_cells(folder / "cells", splits)) / "cells"


@pytest.fixture(scope="session")
def coco_photos() -> Path:
    """Photos of many sizes with COCO's own annotations, one crowd in each split; drawn ones where they are not here."""
    folder = BCCD.parent / "coco_photos"
    return folder if folder.is_dir() else drawn_coco()


@pytest.fixture
def unsplit_cells(cells: Path, tmp_path: Path) -> Path:
    """The same six photos in a folder that gives no splits."""
    return Path(shutil.copytree(cells, tmp_path / "unsplit", ignore=shutil.ignore_patterns("ImageSets")))


@pytest.fixture
def two_cells(tmp_path: Path) -> Path:
    """Two photos, which are all there is to train and to validate."""
    return write_cells(tmp_path / "two", {"train": range(2), "val": range(2)})


@pytest.fixture
def config(cells: Path, tmp_path: Path) -> TrainConfig:
    """The smallest run that has everything: 8 steps."""
    return small_config(cells, tmp_path / "run")


def train_silently(config: TrainConfig) -> Path:
    from focaldet.engine.train import train  # here: the process that hands out the tests reads this file too

    return train(config, say=lambda line: None)


def small_config(data: Path, out: Path) -> TrainConfig:
    return TrainConfig(
        data=str(data),
        out=str(out),
        backbone="mobilenetv3_small_050",
        size=64,
        levels="p3-p7",
        channels=16,
        head_depth=1,
        pretrained=False,
        epochs=4,
        batch=2,
        val_every=2,
    )


@pytest.fixture(scope="session")
def trained(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of such a run: look, do not touch."""
    made = made_once(tmp_path_factory, "runs", lambda folder: train_silently(small_config(cells, folder / "trained")))
    return made / "trained"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, to break."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture
def again(config: TrainConfig) -> Callable[..., Path]:
    """Trains with some fields changed, in silence."""
    return lambda **changes: train_silently(replace(config, **changes))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
