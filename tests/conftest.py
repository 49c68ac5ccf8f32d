"""A few real photos as a data folder, and a run on them, each made once."""

import gc
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test uses the network

from shapes import check_shapes

check_shapes()

from browser import Browser  # noqa: E402
from cell_photos import BCCD, write_cells  # noqa: E402
from drawn_photos import drawn_coco  # noqa: E402
from focaldet.engine.config import TrainConfig  # noqa: E402
from once import made_once  # noqa: E402


def pytest_configure() -> None:
    """Two settings for all tests.

    Ctrl-C works even if the tests run as a background job of a shell, which makes processes ignore it: a process
    started here would ignore it, too.

    torch's structured trace log gets no handlers. If it has one, torch logs each step of compiling and exporting, at
    three times the work, and pytest adds a handler to every logger that does not propagate, such as this one. The
    setting holds even if torch is imported later.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("torch.__trace").addHandler = lambda handler: None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Freeze imported objects, some 600,000 with torch and lightning. Otherwise Python's collector would scan them
    again and again, for a sixth of the time of the quick tests."""
    gc.disable()
    done = yield
    gc.enable()
    gc.freeze()
    return done


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for the tests of one file."""
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
    """Photos of many sizes with COCO's own annotations, one crowd in each split; drawn ones if they are missing."""
    folder = BCCD.parent / "coco_photos"
    return folder if folder.is_dir() else drawn_coco()


@pytest.fixture
def unsplit_cells(cells: Path, tmp_path: Path) -> Path:
    """The same six photos in a folder without splits."""
    return Path(shutil.copytree(cells, tmp_path / "unsplit", ignore=shutil.ignore_patterns("ImageSets")))


@pytest.fixture
def two_cells(tmp_path: Path) -> Path:
    """Only two photos, used both to train and to validate."""
    return write_cells(tmp_path / "two", {"train": range(2), "val": range(2)})


@pytest.fixture
def config(cells: Path, tmp_path: Path) -> TrainConfig:
    """The smallest run with all features: 8 steps."""
    return small_config(cells, tmp_path / "run")


def train_silently(config: TrainConfig) -> Path:
    from focaldet.engine.train import train  # here: the process that distributes the tests reads this file too

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
    """The run folder of such a run; do not change it."""
    made = made_once(tmp_path_factory, "runs", lambda folder: train_silently(small_config(cells, folder / "trained")))
    return made / "trained"


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos in ``data``, and a ``run`` trained and measured on them; do not change them."""

    def make(folder: Path) -> None:
        data = write_cells(folder / "data", {"train": range(2), "val": range(2)})
        network = {"backbone": "test_resnet", "size": 256, "channels": 32}
        learning = {"epochs": 100, "val_every": 100, "ema": 0.9, "augment": "none", "flips": "none", "workers": 0}
        train_silently(replace(small_config(data, folder / "run"), **network, **learning))

    return made_once(tmp_path_factory, "learned", make)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, free to change."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture
def again(config: TrainConfig) -> Callable[..., Path]:
    """Trains with some fields changed, without output."""
    return lambda **changes: train_silently(replace(config, **changes))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch, as in the processes that tests start: with more, sums differ in their last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
