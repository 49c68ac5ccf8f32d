"""The folds of a study (``--folds``): each is measured once, by a training that has seen none of its photos."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from focaldet.checks import InputError, check_range, first_names
from focaldet.data.folds import Fold, all_photos, stratified_folds, with_fold
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.data.truth import image_ids
from focaldet.records.study import Study

Names = list[list[str]]
"""The photos of each fold, by their paths in the folder."""


def divide(folder: DataFolder, count: int, seed: int) -> Names:
    """Divide all photos of a folder into folds, stratified by class; the folder's own splits do not matter.

    Raises:
        InputError: fewer than 3 folds, or fewer photos than folds.
    """
    check_range("--folds", count, 3, 100)
    folds = stratified_folds(all_photos(folder), folder.num_classes, count, seed)
    return [[_name(folder, record) for record in fold] for fold in folds]


def _name(folder: DataFolder, record: ImageRecord) -> str:
    return Path(os.path.relpath(record.path, folder.root)).as_posix()


def find_folds(folder: DataFolder, names: Names) -> list[Fold]:
    """Find the photos of each fold. Their image ids are unique across all folds, so that one COCO file can hold them.

    Raises:
        InputError: the folder has other photos than the folds.
    """
    records = {_name(folder, record): record for record in all_photos(folder)}
    listed = [name for fold in names for name in fold]
    if sorted(listed) != sorted(records):
        changed = sorted(records.keys() ^ set(listed)) or listed
        raise InputError(
            f"{folder.root}: the photos have changed since the study divided them into folds "
            f"({first_names(changed, 2)}); choose another --out"
        )
    ids = iter(image_ids([records[name] for name in listed]))
    return [tuple(replace(records[name], image_id=next(ids)) for name in fold) for fold in names]


def split_by_fold(folder: DataFolder, names: Names) -> DataFolder:
    """The folder with one split per fold."""
    splits = {f"fold {number}": fold for number, fold in enumerate(find_folds(folder, names), start=1)}
    origin = f"all photos in {len(names)} folds, stratified by class"
    return replace(folder, splits=splits, split_origin=origin, made_splits=())


def photos_of(folder: DataFolder, names: Names | None, number: int) -> DataFolder:
    """The folder with its own splits or, if there are folds, with fold ``number`` as test, the next as val."""
    return folder if names is None else with_fold(folder, find_folds(folder, names), number)


def unit(study: Study) -> str:
    """``"fold"`` or ``"seed"``: the trainings of a rung differ by it."""
    return "fold" if "folds" in study else "seed"


def training_name(study: Study, seed: int) -> str:
    """Name of the training with a seed: ``"fold 1"`` or ``"seed 0"``."""
    return f"fold {study['seeds'].index(seed) + 1}" if "folds" in study else f"seed {seed}"


def missing_classes(folder: DataFolder, names: Names) -> list[str]:
    """Sentences about the classes that have objects, but not in every fold."""
    folds = split_by_fold(folder, names).splits
    found = {name: _labels(fold) for name, fold in folds.items()}
    everywhere = set[int]().union(*found.values())
    return [
        f"{name} has no {first_names([folder.class_names[label] for label in sorted(everywhere - labels)])}; its AP is "
        "the mean over the other classes"
        for name, labels in found.items()
        if everywhere - labels
    ]


def _labels(fold: Sequence[ImageRecord]) -> set[int]:
    return {label for record in fold for label in record.labels[~record.ignored].tolist()}
