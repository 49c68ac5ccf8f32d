"""What is wrong with no item of a folder of labelled photos, and yet should be known before training on it."""

from focaldet.data.records import DataFolder, Fault


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


def splits_without_objects(folder: DataFolder) -> list[str]:
    """A sentence for each split that AP cannot be measured on."""
    return [
        f"{split} has not one object in its {len(records):,} photos: its AP cannot be measured"
        for split, records in folder.splits.items()
        if split != "train" and records and not any(record.num_objects for record in records)
    ]
