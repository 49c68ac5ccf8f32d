"""``focaldet study --folds``: which photos train, select and test, and one fold trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.data.folds import all_photos
from focaldet.data.records import DataFolder
from focaldet.files import read_json, write_json
from focaldet.study.folder import check_lines, open_study, read_study
from focaldet.study.folds import divide, find_folds, missing_classes, photos_of
from focaldet.study.worker import do_rung, line_file, run_folder


@pytest.fixture(scope="module")
def folder(cells: Path) -> DataFolder:
    return read_folder(cells)


def test_each_photo_is_tested_once_by_a_training_without_it(folder: DataFolder) -> None:
    names = divide(folder, 3, seed=0)
    assert sorted(name for fold in names for name in fold) == sorted(
        record.path.relative_to(folder.root).as_posix() for record in all_photos(folder)
    )
    for number in range(3):
        splits = {
            split: [record.path.relative_to(folder.root).as_posix() for record in records]
            for split, records in photos_of(folder, names, number).splits.items()
        }
        assert splits["test"] == names[number]
        assert splits["val"] == names[(number + 1) % 3]
        assert splits["train"] == names[(number + 2) % 3]


def test_image_ids_are_unique_across_folds_even_if_two_splits_share_them(folder: DataFolder) -> None:
    equal = {split: tuple(replace(r, image_id=7) for r in records) for split, records in folder.splits.items()}
    folds = find_folds(replace(folder, splits=equal), divide(folder, 3, seed=0))
    assert [record.image_id for fold in folds for record in fold] == [1, 2, 3, 4, 5, 6]


def test_a_fold_without_a_class_is_announced(folder: DataFolder) -> None:
    names = divide(folder, 3, seed=0)
    second = {record.path for record in find_folds(folder, names)[1]}
    only_first_class = {
        split: tuple(replace(r, labels=r.labels * 0) if r.path in second else r for r in records)
        for split, records in folder.splits.items()
    }
    missing = missing_classes(replace(folder, splits=only_first_class), names)
    assert "fold 2 has no RBC, WBC; its AP is the mean over the other classes" in missing


def test_a_study_over_folds_is_continued_as_it_is(given: dict, out: Path) -> None:
    study = open_study(out, given, rungs=["gfl"], folds=3)
    assert study["seeds"] == [0, 1, 2]
    assert study["photos"] == {"fold 1": 2, "fold 2": 2, "fold 3": 2}
    assert study["split"] == "test"
    truth = read_json(out / "truth.json")
    assert len(truth["images"]) == 6
    assert sum(map(sum, study["objects"].values())) == len(truth["annotations"])
    assert open_study(out, {}) == open_study(out, given, folds=3) == study
    assert [row["name"] for row in open_study(out, {}, rungs=["fcos"])["rungs"]] == ["fcos", "gfl"]
    before = (out / "study.json").read_bytes()
    with pytest.raises(InputError, match=r"study\.json: the study has 3 folds, not 4; choose another --out"):
        open_study(out, {}, folds=4)
    with pytest.raises(InputError, match=r"the study has 3 folds, not seeds; .*leave out --seeds"):
        open_study(out, {}, seeds=5)
    assert (out / "study.json").read_bytes() == before


def test_a_study_over_seeds_does_not_become_one_over_folds(given: dict, out: Path) -> None:
    assert "folds" not in open_study(out, given, rungs=["gfl"], seeds=3)
    with pytest.raises(InputError, match=r"the study has seeds, not folds; .*leave out --folds"):
        open_study(out, {}, folds=3)


def test_a_photo_that_is_gone_is_named(given: dict, cells: Path, tmp_path: Path, out: Path) -> None:
    photos = Path(shutil.copytree(cells, tmp_path / "cells"))
    open_study(out, given | {"data": str(photos)}, rungs=["gfl"], folds=3)
    photo = min((photos / "JPEGImages").iterdir())
    photo.unlink()
    with pytest.raises(InputError, match=rf"divided them into folds \(JPEGImages/{photo.name}\); choose another --out"):
        open_study(out, {})


@pytest.mark.parametrize(
    ("folds", "words"),
    [(3, "folds: expected a list, got a int"), ([["a"]], "one for each seed, got 1"), ([[3]], r"folds\[0\]\[0\]")],
)
def test_damaged_folds_are_refused(given: dict, out: Path, folds: object, words: str) -> None:
    study = open_study(out, given, rungs=["gfl"], folds=3)
    write_json(out / "study.json", study | {"folds": folds})
    with pytest.raises(InputError, match=words):
        read_study(out)


def test_a_fold_is_trained_and_measured_on_its_own_photos(given: dict, out: Path) -> None:
    """An ignored class must not change the folds: training and measuring read the labels differently."""
    study = open_study(out, given | {"epochs": 1, "ignore": "Platelets"}, rungs=["gfl"], folds=3)
    do_rung(out, "gfl", 1, say=lambda line: None)
    names = [[Path(name).stem for name in fold] for fold in study["folds"]]
    recorded = json.loads((run_folder(out, "gfl", 1) / "splits.json").read_text())
    splits = {split: [Path(name).stem for name in files] for split, files in recorded.items()}
    assert splits == {"test": names[1], "val": names[2], "train": names[0]}
    line = read_json(line_file(out, "gfl", 1))
    check_lines(out, study, [line])
    assert line["split"] == "test"
    assert [row["objects"] for row in line["per_class"]] == study["objects"]["fold 2"]
    file_of = {image["id"]: Path(image["file_name"]).stem for image in read_json(out / "truth.json")["images"]}
    details = read_json(out / "details" / "gfl-1.json")
    assert [file_of[photo["image_id"]] for photo in details["photos"]] == names[1]
