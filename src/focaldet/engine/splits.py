"""Record the splits of a run, so that its training photos are not measured as if they were new.

A run records them in ``splits.json``, by the file names that the label format uses. The folder may be moved, copied or
converted, and photos may be added or removed. A renamed photo counts as new. A different photo with a recorded name
counts as the recorded one: in that case fewer photos are used than possible, or a warning is too cautious.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath

from focaldet.checks import InputError
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.files import read_json, write_json

Recorded = Mapping[str, Set[str]]
"""Split -> file names of its photos; empty without a record."""

FILE = "splits.json"

BETTER = "A detector scores higher on its training photos than on new ones"


def recorded_splits(run: Path, folder: DataFolder) -> Recorded:
    """Find the photos of a folder in the splits that a run recorded.

    If no file name matches, as after conversion to another format, names without their folders are compared.

    Args:
        run: run folder, or a file in one. An imported run has no record.
        folder: the photos, in any split.

    Raises:
        InputError: the record is damaged.
    """
    recorded = _read(run if run.is_dir() else run.parent)
    there = {record.file_name for records in folder.splits.values() for record in records}
    if there.isdisjoint(name for names in recorded.values() for name in names):
        short = {split: {PurePosixPath(name).name for name in names} for split, names in recorded.items()}
        return {split: {name for name in there if PurePosixPath(name).name in names} for split, names in short.items()}
    return {split: there.intersection(names) for split, names in recorded.items()}


def record_splits(run: Path, folder: DataFolder, *, resumed: bool = False) -> None:
    """Write the splits of a folder into a run. A run that is resumed with other photos keeps the earlier ones too."""
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
            f"{file}: expected the file names of each split, as focaldet train writes them; restore the file, or "
            "remove it to do without the record"
        )
    return recorded


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def with_recorded_splits(folder: DataFolder, recorded: Recorded, *, new: str = "") -> DataFolder:
    """Replace a folder's automatic splits by those of a run; splits defined by the folder itself stay.

    Automatic splits depend on the seed and on the number of photos.

    Args:
        recorded: result of ``recorded_splits`` for this folder.
        new: split for photos that are not recorded. If it is empty, or defined by the folder, they stay in their
            automatic split.

    >>> import numpy as np
    >>> nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    >>> a, b, c = (ImageRecord(Path(name), name, 0, 16, 16, *nothing) for name in ("a.jpg", "b.jpg", "c.jpg"))
    >>> drawn = {"train": (a,), "val": (b,), "test": (c,)}
    >>> folder = DataFolder(Path("."), "coco", ("cell",), drawn, "drawn", "", (), made_splits=tuple(drawn))
    >>> found = with_recorded_splits(folder, {"train": {"c.jpg"}, "val": {"b.jpg"}}, new="test")
    >>> {split: [record.file_name for record in records] for split, records in found.splits.items()}
    {'train': ['c.jpg'], 'val': ['b.jpg'], 'test': ['a.jpg']}
    >>> found.split_origin
    'train, val and test as recorded by the run, because the folder has none; 1 photo not recorded, now in test'
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
                # If there is only one photo, it is in every split, and stays in all of them.
                now = split if split in then else then[0] if then else new or split
            splits.setdefault(now, []).append(record)
    origin = (
        f"{' and '.join(', '.join(folder.made_splits).rsplit(', ', 1))} as recorded by the run, because the folder has "
    )
    origin += "none" if strangers == 0 else f"none; {strangers:,} photo{'s' * (strangers > 1)} not recorded, "
    if strangers:
        origin += f"now in {new}" if new else "split at random"
    return replace(
        folder, splits={split: tuple(records) for split, records in splits.items() if records}, split_origin=origin
    )


def trained_on(records: Iterable[ImageRecord], recorded: Recorded) -> str:
    """Warning if some of these photos trained the run, else ``""``."""
    count = trained_count(records, recorded)
    return f"{count}. {BETTER}" if count else ""


def trained_count(records: Iterable[ImageRecord], recorded: Recorded) -> str:
    """The warning's first sentence: how many of these photos trained the run."""
    names = [record.file_name for record in records]
    count = sum(name in recorded.get("train", ()) for name in names)
    if not count:
        return ""
    return f"{count:,} of these {len(names):,} photos trained the detector"
