from pathlib import Path

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.data.folds import all_photos, stratified_folds, with_fold
from focaldet.data.records import ImageRecord

from .builders import write_coco


def photo(number: int, *labels: int) -> ImageRecord:
    boxes = np.tile(np.array([0, 0, 8, 8], np.float32), (len(labels), 1))
    name = f"{number}.jpg"
    return ImageRecord(Path(name), name, number, 16, 16, boxes, np.array(labels, np.int64), np.zeros(len(labels), bool))


def test_every_photo_is_in_one_fold_and_rare_classes_are_in_all() -> None:
    """120 photos; one in twelve has an object of class 2, which a draw at random would leave out of some folds."""
    rng = np.random.default_rng(0)
    records = [
        photo(n, *([0] * rng.integers(0, 20)), *([1] * (n % 3 == 0)), *([2] * (n % 12 == 0))) for n in range(120)
    ]
    folds = stratified_folds(records, 3, 5, seed=1)
    assert sorted(r.image_id for fold in folds for r in fold) == list(range(120))
    counts = np.array([np.bincount(np.concatenate([r.labels for r in fold]), minlength=3) for fold in folds])
    assert counts[:, 2].tolist() == [2] * 5
    assert counts[:, 1].tolist() == [8] * 5
    assert np.ptp(counts[:, 0]) <= 0.05 * counts[:, 0].mean()
    assert folds == stratified_folds(records, 3, 5, seed=1)
    assert folds != stratified_folds(records, 3, 5, seed=2)


def test_photos_without_objects_are_shared_out_too() -> None:
    folds = stratified_folds([photo(n) for n in range(10)], 2, 3)
    assert sorted(map(len, folds)) == [3, 3, 4]


def test_more_folds_than_photos_are_refused() -> None:
    with pytest.raises(InputError, match="--folds 3: there are only 2 photos"):
        stratified_folds([photo(0), photo(1)], 1, 3)


def test_a_fold_is_tested_the_next_calibrates_and_the_others_train(tmp_path: Path) -> None:
    write_coco(tmp_path)
    folder = read_folder(tmp_path)
    assert len(all_photos(folder)) == sum(map(len, folder.splits.values()))
    folds = [(photo(n),) for n in range(4)]
    splits = with_fold(folder, folds, 3).splits
    assert {name: [r.image_id for r in records] for name, records in splits.items()} == {
        "train": [1, 2],
        "val": [0],
        "test": [3],
    }
