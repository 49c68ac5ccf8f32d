"""Divide labelled photos into folds with about the same number of objects of each class."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from focaldet.checks import InputError
from focaldet.data.records import DataFolder, ImageRecord

Fold = tuple[ImageRecord, ...]


def all_photos(folder: DataFolder) -> Fold:
    """Every photo of a folder once, in any split."""
    return tuple({record.path: record for records in folder.splits.values() for record in records}.values())


def stratified_folds(records: Sequence[ImageRecord], num_classes: int, count: int, seed: int = 0) -> list[Fold]:
    """Divide photos into ``count`` folds, by iterative stratification.

    The photos with objects of the rarest class are distributed first, in order of decreasing number of such objects.
    Each goes to the fold that lacks most objects of that class. The class that is now rarest follows. (Sechidis et al.,
    On the Stratification of Multi-Label Data, 2011; with numbers of objects instead of labels.)

    Args:
        records: the photos.
        num_classes: number of classes.
        count: number of folds.
        seed: breaks ties between photos and between folds.

    Raises:
        InputError: fewer photos than folds.
    """
    if len(records) < count:
        raise InputError(f"--folds {count}: there are only {len(records)} photos; use fewer folds")
    rng = np.random.default_rng(seed)
    has = np.array(
        [np.bincount(record.labels[~record.ignored], minlength=num_classes)[:num_classes] for record in records]
    )
    objects, photos = np.tile(has.sum(axis=0) / count, (count, 1)), np.full(count, len(records) / count)
    members: list[list[int]] = [[] for _ in range(count)]
    left = rng.permutation(len(records)).tolist()

    def deal(photo: int, lacking: np.ndarray) -> None:
        fold = int(np.lexsort((rng.random(count), -photos, -lacking))[0])
        members[fold].append(photo)
        objects[fold] -= has[photo]
        photos[fold] -= 1
        left.remove(photo)

    while left:
        remaining = has[left].sum(axis=0)
        if not remaining.any():
            deal(left[0], photos)
            continue
        rarest = min(np.flatnonzero(remaining), key=lambda label: remaining[label])
        for photo in sorted((photo for photo in left if has[photo, rarest]), key=lambda photo: -has[photo, rarest]):
            deal(photo, objects[:, rarest])
    return [tuple(records[photo] for photo in sorted(fold)) for fold in members]


def with_fold(folder: DataFolder, folds: Sequence[Fold], number: int) -> DataFolder:
    """The folder with a fold as its test split, the next one as val, and the others as train."""
    others = [(number + step) % len(folds) for step in range(2, len(folds))]
    splits = {
        "train": tuple(record for other in others for record in folds[other]),
        "val": folds[(number + 1) % len(folds)],
        "test": folds[number],
    }
    origin = f"fold {number + 1} of {len(folds)} is test, the next one val, the others train"
    return replace(folder, splits=splits, split_origin=origin, made_splits=())
