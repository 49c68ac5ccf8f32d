"""Map the labels of a folder to the classes of a detector, by name."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from focaldet.checks import InputError, first_names
from focaldet.data.ignore import ignore_classes
from focaldet.data.records import NO_CLASS, DataFolder, ImageRecord


def with_classes(
    folder: DataFolder, class_names: Sequence[str], *, ignore_others: bool = False
) -> tuple[DataFolder, list[str]]:
    """The folder with the given classes in the given order.

    Args:
        class_names: class names of the detector.
        ignore_others: turn objects of other classes into ignore regions; by default they are left out.

    Returns:
        The folder, and a sentence for each difference between its own classes and the given ones.

    Raises:
        InputError: they share no class.

    >>> from pathlib import Path
    >>> boxes = np.array([[0, 0, 8, 8], [8, 0, 16, 8]], np.float32)
    >>> photo = ImageRecord(Path("a.jpg"), "a.jpg", 0, 16, 16, boxes, np.array([0, 1]), np.array([False, False]))
    >>> folder = DataFolder(Path("."), "coco", ("cat", "cow"), {"train": (photo,)}, "", "", ())
    >>> found, lines = with_classes(folder, ["dog", "cat"])
    >>> found.class_names, found.splits["train"][0].labels.tolist()
    (('dog', 'cat'), [1])
    >>> for line in lines:
    ...     print(line)
    objects of classes that the detector does not know are left out: cow
    the labels have no objects of dog, which the detector knows: they do not count in AP
    """
    own, wanted = folder.class_names, tuple(class_names)
    if own == wanted:
        return folder, []
    shared = [name for name in wanted if name in own]
    if not shared:
        raise InputError(
            f"{folder.root}: its classes are {first_names(own)}; the detector knows only {first_names(wanted)}"
        )
    others = [name for name in own if name not in wanted]
    missing = [name for name in wanted if name not in own]
    lines = []
    if others:
        treated = "are ignored" if ignore_others else "are left out"
        lines.append(f"objects of classes that the detector does not know {treated}: {first_names(others)}")
    if missing:
        lines.append(
            f"the labels have no objects of {first_names(missing)}, which the detector knows: they do not count in AP"
        )
    if not others and not missing:
        lines.append("the labels have the detector's classes in another order; they are matched by name")
    if ignore_others:
        folder = ignore_classes(folder, others)
    label_of = np.array([wanted.index(name) if name in wanted else NO_CLASS for name in folder.class_names], np.int64)
    splits = {split: tuple(_relabelled(r, label_of) for r in records) for split, records in folder.splits.items()}
    ids = _category_ids(folder, wanted) if folder.category_ids else ()
    return replace(folder, class_names=wanted, splits=splits, category_ids=ids), lines


def _relabelled(record: ImageRecord, label_of: np.ndarray) -> ImageRecord:
    labels = np.where(record.labels == NO_CLASS, NO_CLASS, label_of[record.labels])
    kept = (labels != NO_CLASS) | (record.labels == NO_CLASS)
    return replace(
        record,
        boxes_xyxy=record.boxes_xyxy[kept],
        labels=labels[kept],
        ignored=record.ignored[kept],
        areas=None if record.areas is None else record.areas[kept],
    )


def _category_ids(folder: DataFolder, wanted: tuple[str, ...]) -> tuple[int | str, ...]:
    """The ids of the user's file; other classes get ids that the file does not use."""
    ids = dict(zip(folder.class_names, folder.category_ids, strict=True))
    free = max((key for key in ids.values() if isinstance(key, int)), default=0) + 1
    for name in wanted:
        if name not in ids:
            ids[name] = free
            free += 1
    return tuple(ids[name] for name in wanted)
