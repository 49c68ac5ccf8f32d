"""Classes whose boxes become ignore regions: neither objects nor background.

No location in such a region is trained as background (``focaldet.assign.claims.ignore_unknown``), and detections in it,
of any class, count as neither right nor wrong (COCO's crowds). Data sets use them to mark crowds, reflections or
objects that are too small to recognise (KITTI's DontCare, VisDrone's ignored regions).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from focaldet.checks import InputError, near_name
from focaldet.data.records import NO_CLASS, DataFolder, ImageRecord


def ignore_classes(folder: DataFolder, names: Sequence[str]) -> DataFolder:
    """The folder without some of its classes; their boxes become ignore regions without a class.

    Raises:
        InputError: an unknown class, or nothing is left to detect.
    """
    if not names:
        return folder
    for name in names:
        if name not in folder.class_names:
            raise InputError(f"--ignore {name}: {folder.root} has no such class; {near_name(name, folder.class_names)}")
    kept = tuple(name for name in folder.class_names if name not in names)
    label = np.array([kept.index(name) if name in kept else NO_CLASS for name in folder.class_names])
    splits = {split: tuple(_relabelled(r, label) for r in records) for split, records in folder.splits.items()}
    if not any(record.num_objects for records in splits.values() for record in records):
        raise InputError(f"--ignore {','.join(names)}: leaves no object in {folder.root}")
    ids = zip(folder.class_names, folder.category_ids, strict=bool(folder.category_ids))
    return replace(
        folder,
        class_names=kept,
        splits=splits,
        ignored_classes=(*folder.ignored_classes, *dict.fromkeys(names)),
        category_ids=tuple(key for name, key in ids if name in kept),
    )


def _relabelled(record: ImageRecord, label: np.ndarray) -> ImageRecord:
    # A region without a class keeps none.
    labels = np.where(record.labels == NO_CLASS, NO_CLASS, label[record.labels])
    return replace(record, labels=labels, ignored=record.ignored | (labels == NO_CLASS))


def ignored_regions(folder: DataFolder, split: str) -> str:
    """A line about the ignore regions of a split; "" if there are none.

    >>> from pathlib import Path
    >>> boxes = np.array([[0, 0, 8, 8], [8, 0, 16, 8]], np.float32)
    >>> photo = ImageRecord(Path("a.jpg"), "a.jpg", 0, 16, 16, boxes, np.array([0, 1]), np.array([False, False]))
    >>> folder = DataFolder(Path("."), "coco", ("cell", "dirt"), {"train": (photo,)}, "", "", ())
    >>> ignored_regions(ignore_classes(folder, ["dirt"]), "train")
    'neither objects nor background in train: 1 box of dirt'
    """
    labels = [int(label) for r in folder.splits.get(split, ()) for label in r.labels[r.ignored].tolist()]
    boxes, crowds = labels.count(NO_CLASS), len(labels) - labels.count(NO_CLASS)
    parts = [f"{boxes} {'box' if boxes == 1 else 'boxes'} of {', '.join(folder.ignored_classes)}"] if boxes else []
    parts += [f"{crowds} {'crowd' if crowds == 1 else 'crowds'}"] if crowds else []
    return f"neither objects nor background in {split}: {' and '.join(parts)}" if parts else ""
