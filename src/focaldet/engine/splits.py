"""The splits that a run was trained with: what it has learned from is not measured as if it were new.

A run records them in ``splits.json``, where a photo is known by its file name as the layout writes it. So a folder may
be moved, copied or written in another layout, and photos may be added to it or taken away. A renamed photo is taken for
a new one. Another photo of a recorded name is taken for the recorded one: then fewer photos are looked at than could
be, or what is said of them is too cautious.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath

from focaldet.checks import InputError
from focaldet.data import DataFolder, ImageRecord
from focaldet.files import read_json, write_json

Recorded = Mapping[str, Set[str]]
"""Split -> the file names of its photos. Empty: nothing is recorded."""

FILE = "splits.json"

BETTER = "On photos that trained it, a detector does better than on new ones"


def recorded_splits(run: Path, folder: DataFolder) -> Recorded:
    """The photos of a folder that were in the splits that a run was trained with.

    Where the folder has no file name as it is recorded, which is so in another layout, the names without their folders
    are compared.

    Args:
        run: a run folder, or a file in one. An imported run has no record.
        folder: its photos; in which of its splits they are does not matter.

    Raises:
        InputError: the record is broken.
    """
    recorded = _read(run if run.is_dir() else run.parent)
    there = {record.file_name for records in folder.splits.values() for record in records}
    if there.isdisjoint(name for names in recorded.values() for name in names):
        short = {split: {PurePosixPath(name).name for name in names} for split, names in recorded.items()}
        return {split: {name for name in there if PurePosixPath(name).name in names} for split, names in short.items()}
    return {split: there.intersection(names) for split, names in recorded.items()}


def record_splits(run: Path, folder: DataFolder, *, resumed: bool = False) -> None:
    """Write the splits of a folder into a run. One that is resumed with other photos still knows the earlier ones."""
    splits = {split: [record.file_name for record in records] for split, records in folder.splits.items()}
    for split, names in (_read(run) if resumed else {}).items():
        splits[split] = list(dict.fromkeys([*splits.get(split, ()), *names]))
    write_json(run / FILE, splits)


def _read(run: Path) -> dict[str, list[str]]:
    file = run / FILE
    if not file.is_file():
        return {}
    recorded = read_json(file)
    if not isinstance(recorded, dict) or not all(_are_names(names) for names in recorded.values()):
        raise InputError(
            f"{file}: expected the file names of each split, as focaldet train writes them; bring it back, or remove "
            "it: then nothing is known of the photos"
        )
    return recorded


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def with_recorded_splits(folder: DataFolder, recorded: Recorded, *, new: str = "") -> DataFolder:
    """A folder whose made splits are those of a run; splits that the layout gives are left alone.

    Made splits depend on the seed, and on how many photos there are.

    Args:
        recorded: as ``recorded_splits`` gives it for this folder.
        new: the split of photos that are not recorded; where the layout gives it, or none is named, they stay in the
            split that they were drawn for.

    >>> import numpy as np
    >>> nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    >>> a, b, c = (ImageRecord(Path(name), name, 0, 16, 16, *nothing) for name in ("a.jpg", "b.jpg", "c.jpg"))
    >>> drawn = {"train": (a,), "val": (b,), "test": (c,)}
    >>> folder = DataFolder(Path("."), "coco", ("cell",), drawn, "drawn", "", (), made_splits=tuple(drawn))
    >>> found = with_recorded_splits(folder, {"train": {"c.jpg"}, "val": {"b.jpg"}}, new="test")
    >>> {split: [record.file_name for record in records] for split, records in found.splits.items()}
    {'train': ['c.jpg'], 'val': ['b.jpg'], 'test': ['a.jpg']}
    >>> found.split_origin
    'train, val, test as the run recorded them, because the folder gives none; not recorded, so new and in test: 1'
    """
    if not recorded or not folder.made_splits:
        return folder
    new = new if new in folder.made_splits else ""
    splits: dict[str, list[ImageRecord]] = {split: [] for split in folder.splits}
    strangers = 0
    for split, records in folder.splits.items():
        for record in records:
            then = [name for name, names in recorded.items() if record.file_name in names]
            now = split
            if split in folder.made_splits:
                strangers += not then
                # Of a single photo every split is made, and in all of them it stays.
                now = split if split in then else then[0] if then else new or split
            splits.setdefault(now, []).append(record)
    origin = f"{', '.join(folder.made_splits)} as the run recorded them, because the folder gives none"
    if strangers:
        origin += f"; not recorded, so {f'new and in {new}' if new else 'drawn anew'}: {strangers}"
    return replace(
        folder, splits={split: tuple(records) for split, records in splits.items() if records}, split_origin=origin
    )


def trained_on(records: Iterable[ImageRecord], recorded: Recorded) -> str:
    """A sentence where photos that are looked at trained the run, whoever chose them; else ``""``."""
    names = [record.file_name for record in records]
    count = sum(name in recorded.get("train", ()) for name in names)
    if not count:
        return ""
    return f"photos that trained the detector: {count} of these {len(names)}. {BETTER}"
