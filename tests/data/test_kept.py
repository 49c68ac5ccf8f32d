"""Photos in memory: one block that workers share, whichever way they start."""

import os

import pytest
import torch

from focaldet.data import kept
from focaldet.data.kept import KeptPhotos, can_keep

SIZES = [(4, 2), (3, 5), (6, 1), (2, 2)]


def read(index: int):
    """The second photo cannot be read, the third has other sides than its header said."""
    if index == 1:
        return None
    width, height = (5, 5) if index == 2 else SIZES[index]
    return torch.full((3, height, width), index + 7, dtype=torch.uint8)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_photos_are_kept_as_they_were_read(method, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: method)
    before = set(os.listdir(kept.SHARED_MEMORY)) if kept.SHARED_MEMORY.is_dir() else set()
    photos = KeptPhotos(SIZES, read)
    assert photos._block.is_shared() == (method == "spawn")
    if kept.SHARED_MEMORY.is_dir():
        assert not {name for name in set(os.listdir(kept.SHARED_MEMORY)) - before if f"_{os.getpid()}_" in name}
    assert len(photos) == 4
    for index, photo in enumerate(photos):
        expected = read(index)
        assert photo is None if expected is None else torch.equal(photo, expected)


def test_what_shared_memory_cannot_hold_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "spawn")
    monkeypatch.setattr(kept, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 2 * 3 * 33 - 1})())
    assert not can_keep(SIZES)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 2 * 3 * 33})())
    assert can_keep(SIZES)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "fork")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 0})())
    assert can_keep(SIZES)  # forked workers need none
