"""Suspicious properties of a folder of labelled photos that are not the fault of any single item."""

import numpy as np

from focaldet.data.records import DataFolder, Fault

_PERCENT = 100

_ENOUGH_BOXES = 10
"""Fewer boxes may lie in a corner by chance."""


def similar_classes(folder: DataFolder) -> list[Fault]:
    """Classes whose names differ only in case or spaces."""
    alike: dict[str, list[str]] = {}
    for name in folder.class_names:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    return [
        Fault(
            "similar-classes",
            folder.root.name,
            "",
            f"{', '.join(map(repr, names))} differ only in case or spaces; if they are one class, give them one name",
        )
        for names in alike.values()
        if len(names) > 1
    ]


def like_percent(folder: DataFolder) -> list[str]:
    """A sentence if photos are much larger, but every box lies within the first 100 pixels."""
    records = [record for records in folder.splits.values() for record in records if len(record.labels)]
    sides = np.array([(min(r.width, r.height), max(r.width, r.height)) for r in records]).reshape(-1, 2)
    if not len(sides) or (sides <= (_PERCENT, 1.5 * _PERCENT)).any():
        return []
    ends = np.concatenate([record.boxes_xyxy[:, 2:] for record in records])
    if len(ends) < _ENOUGH_BOXES or not _PERCENT / 2 < ends.max() <= _PERCENT:
        return []
    return [
        "every box lies within the first 100 pixels of its photo; if the numbers are percent of its width and height, "
        "convert them to pixels"
    ]


def splits_without_objects(folder: DataFolder) -> list[str]:
    """A sentence for each split on which AP cannot be measured."""
    return [
        f"{split} has no object in its {len(records):,} photos: its AP cannot be measured"
        for split, records in folder.splits.items()
        if split != "train" and records and not any(record.num_objects for record in records)
    ]
