"""The splits of a run: their origin, and what they change and leave alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import evaluate_run
from focaldet.engine.splits import record_splits, recorded_splits, trained_on, with_recorded_splits
from focaldet.engine.train import train
from focaldet.exporting.int8 import Int8

ALL = ("train", "val", "test")
RECORDED = {"train": frozenset("ab"), "val": frozenset("c"), "test": frozenset("d")}


def photo(name: str) -> ImageRecord:
    return ImageRecord(
        Path(name), name, 0, 16, 16, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    )


def folder_of(made: tuple[str, ...] = ALL, **splits: str) -> DataFolder:
    """A folder of photos that are called by one letter each."""
    records = {split: tuple(photo(name) for name in names) for split, names in splits.items()}
    return DataFolder(Path("cells"), "voc", ("cell",), records, "drawn with seed 0", "", (), made_splits=made)


def names(folder: DataFolder) -> dict[str, str]:
    return {split: "".join(sorted(r.file_name for r in records)) for split, records in folder.splits.items()}


def file_names(run: Path) -> list[str]:
    """What ``evaluate_split`` measured."""
    return sorted(Path(image["file_name"]).name for image in json.loads((run / "truth.json").read_text())["images"])


def record(run: Path, **splits: list[str]) -> None:
    (run / "splits.json").write_text(json.dumps(splits))


def test_made_splits_become_those_of_the_run() -> None:
    folder = with_recorded_splits(folder_of(train="cd", val="a", test="b"), RECORDED)
    assert names(folder) == {"train": "ab", "val": "c", "test": "d"}
    assert folder.split_origin == "train, val and test as recorded by the run, because the folder has none"


def test_splits_that_the_layout_gives_are_left_alone() -> None:
    folder = folder_of(made=(), train="cd", val="a", test="b")
    assert with_recorded_splits(folder, RECORDED, new="test") is folder


def test_a_test_split_that_the_layout_gives_is_left_alone_beside_made_ones() -> None:
    folder = with_recorded_splits(folder_of(made=("train", "val"), train="c", val="be", test="adf"), RECORDED)
    assert names(folder) == {"train": "b", "val": "ce", "test": "adf"}  # a trained the run: that is said, see below
    assert folder.split_origin.endswith("; 1 photo not recorded, split at random")


def test_photos_that_are_not_recorded_stay_where_they_were_drawn_unless_a_split_is_named_for_them() -> None:
    drawn = folder_of(train="cxd", val="ay", test="bz")
    stay = with_recorded_splits(drawn, RECORDED)
    assert names(stay) == {"train": "abx", "val": "cy", "test": "dz"}
    assert stay.split_origin.endswith("because the folder has none; 3 photos not recorded, split at random")
    moved = with_recorded_splits(drawn, RECORDED, new="test")
    assert names(moved) == {"train": "ab", "val": "c", "test": "dxyz"}
    assert moved.split_origin.endswith("because the folder has none; 3 photos not recorded, now in test")


def test_new_photos_are_not_added_to_a_test_split_that_the_layout_gives() -> None:
    drawn = folder_of(made=("train", "val"), train="ax", val="by", test="d")
    assert names(with_recorded_splits(drawn, RECORDED, new="test")) == {"train": "abx", "val": "y", "test": "d"}


def test_a_split_that_is_left_without_photos_is_none() -> None:
    assert names(with_recorded_splits(folder_of(train="a", val="c", test="b"), RECORDED)) == {"train": "ab", "val": "c"}


def test_a_single_photo_stays_in_every_split() -> None:
    folder = folder_of(train="a", val="a", test="a")
    recorded = dict.fromkeys(ALL, frozenset("a"))
    assert names(with_recorded_splits(folder, recorded)) == {"train": "a", "val": "a", "test": "a"}


def test_without_a_record_nothing_changes() -> None:
    folder = folder_of(train="cd", val="a", test="b")
    assert with_recorded_splits(folder, {}, new="test") is folder


def test_photos_that_trained_are_counted_and_no_others() -> None:
    said = trained_on([photo("a"), photo("b"), photo("c"), photo("x")], RECORDED)
    assert said.startswith("2 of these 4 photos trained the detector. ")
    assert trained_on([photo("c"), photo("d"), photo("x")], RECORDED) == ""
    assert trained_on([photo("a")], {}) == ""


def test_the_record_of_a_run_holds_for_the_files_in_it(trained: Path, cells: Path, tmp_path: Path) -> None:
    folder = read_folder(cells)
    expected = {split: {record.file_name for record in records} for split, records in folder.splits.items()}
    assert recorded_splits(trained, folder) == recorded_splits(trained / "model.onnx", folder) == expected
    assert recorded_splits(tmp_path, folder) == recorded_splits(tmp_path / "model.onnx", folder) == {}


def test_the_record_holds_for_the_same_photos_in_another_layout(tmp_path: Path) -> None:
    written = ["images/a", "b", "train/images/c"]
    folder = DataFolder(Path("cells"), "yolo", ("cell",), {"": tuple(map(photo, written))}, "", "", ())
    record(tmp_path, train=["a", "x/b"], val=["images/c", "d"])
    assert recorded_splits(tmp_path, folder) == {"train": {"images/a", "b"}, "val": {"train/images/c"}}


def test_photos_of_one_name_in_several_folders_are_several_where_any_is_known_with_its_folder(tmp_path: Path) -> None:
    written = ["one/a", "two/a", "three/a"]
    folder = DataFolder(Path("cells"), "yolo", ("cell",), {"": tuple(map(photo, written))}, "", "", ())
    record(tmp_path, train=["one/a"], val=["two/a"])
    assert recorded_splits(tmp_path, folder) == {"train": {"one/a"}, "val": {"two/a"}}


def test_a_resumed_run_still_knows_what_it_has_learned_from(tmp_path: Path) -> None:
    record_splits(tmp_path, folder_of(train="ab", val="c"))
    later = folder_of(made=(), train="cd", val="a")
    record_splits(tmp_path, later, resumed=True)
    assert recorded_splits(tmp_path, later) == {"train": {"a", "c", "d"}, "val": {"a", "c"}}
    assert json.loads((tmp_path / "splits.json").read_text()) == {"train": ["c", "d", "a", "b"], "val": ["a", "c"]}
    record_splits(tmp_path, later)  # a new run, where one was killed that had learned nothing
    assert recorded_splits(tmp_path, folder_of(train="abcd")) == {"train": {"c", "d"}, "val": {"a"}}


@pytest.mark.parametrize(
    "text",
    ['{"train": ["a.jpg"', "[]", '{"train": "a.jpg"}', '{"train": [1]}', '{"train": {"a.jpg": 1}}', "\x00"],
)
def test_a_broken_record_is_one_line_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*splits\.json: [^\n]*$"):
        recorded_splits(tmp_path, folder_of(train="a"))


def test_eval_measures_the_split_that_the_run_recorded(run: Path, unsplit_cells: Path) -> None:
    everything = sorted(path.name for path in (unsplit_cells / "JPEGImages").iterdir())
    for rest in (everything[:2], everything[3:5]):  # no draw gives both
        record(run, train=[name for name in everything if name not in rest], val=rest[:1], test=rest[1:])
        said: list[str] = []
        evaluate_run(run, unsplit_cells, "test", say=said.append)
        assert file_names(run) == rest[1:]
        assert said[0] == "train, val and test as recorded by the run, because the folder has none"
        assert not any("trained the detector" in line for line in said)


def test_eval_says_when_its_photos_trained_the_run(run: Path, cells: Path) -> None:
    (first, second) = (record.file_name for record in read_folder(cells).splits["val"])
    record(run, train=[first], val=["other.jpg"])
    said: list[str] = []
    evaluate_run(run, cells, "val", say=said.append)  # in the splits that the layout gives now
    assert file_names(run) == sorted([first, second])
    assert said[-1].startswith("1 of these 2 photos trained the detector. ")


def test_eval_takes_photos_that_the_run_has_not_seen_for_its_test_split(run: Path, unsplit_cells: Path) -> None:
    everything = sorted(path.name for path in (unsplit_cells / "JPEGImages").iterdir())
    record(run, train=["other.jpg"], val=everything[:1])
    evaluate_run(run, unsplit_cells, "test", say=lambda line: None)
    assert file_names(run) == everything[1:]
    with pytest.raises(InputError, match=r"no photo in split 'train'; it has val, test$"):
        evaluate_run(run, unsplit_cells, "train")


def test_eval_of_an_imported_run_measures_the_split_that_is_drawn(run: Path, unsplit_cells: Path) -> None:
    (run / "splits.json").unlink()
    said: list[str] = []
    evaluate_run(run, unsplit_cells, "test", say=said.append)
    assert file_names(run) == sorted(record.file_name for record in read_folder(unsplit_cells).splits["test"])
    assert said[0].startswith("random splits (seed 0)")


def test_8_bits_are_judged_on_the_split_that_the_run_recorded(run: Path, unsplit_cells: Path) -> None:
    everything = sorted(path.name for path in (unsplit_cells / "JPEGImages").iterdir())
    for rest in (everything[:2], everything[3:5]):
        record(run, train=[name for name in everything if name not in rest], val=rest)
        folder = Int8(unsplit_cells).folder(Detector.load(run), run, print)
        assert sorted(record.file_name for record in folder.splits["val"]) == rest


@pytest.mark.slow
def test_a_run_that_goes_on_with_more_photos_keeps_those_apart_that_it_is_measured_on(
    unsplit_cells: Path, again: Callable[..., Path], tmp_path: Path
) -> None:
    photos = unsplit_cells / "JPEGImages"
    run = again(data=str(unsplit_cells), out=str(tmp_path / "run"), epochs=1, val_every=1)
    before = recorded_splits(run, read_folder(unsplit_cells))
    for path in sorted(photos.iterdir()):
        shutil.copy(path, path.with_name(f"new_{path.name}"))
        annotation = unsplit_cells / "Annotations" / f"{path.stem}.xml"
        shutil.copy(annotation, annotation.with_name(f"new_{annotation.name}"))
    folder = read_folder(unsplit_cells)
    drawn = {split: {record.file_name for record in records} for split, records in folder.splits.items()}
    assert before["train"] & (drawn["val"] | drawn["test"])  # what would have leaked
    again(data=str(unsplit_cells), out=str(run), epochs=2, val_every=1, resume=True)
    after = recorded_splits(run, folder)
    assert all(before[split] <= after[split] for split in ALL)
    assert sum(map(len, after.values())) == 12


@pytest.mark.slow
def test_a_run_that_begins_with_weights_says_how_many_of_its_val_photos_trained_them(
    unsplit_cells: Path, run: Path, config: TrainConfig, tmp_path: Path
) -> None:
    photos = [record.file_name for records in read_folder(unsplit_cells).splits.values() for record in records]
    record(run, train=photos)
    said: list[str] = []
    changes = {"data": str(unsplit_cells), "out": str(tmp_path / "tuned"), "weights": str(run), "epochs": 1}
    train(replace(config, **changes), say=said.append)
    count = len(recorded_splits(tmp_path / "tuned", read_folder(unsplit_cells))["val"])
    expected = f"val split and --weights {run}: {count} of these {count} photos trained the detector"
    assert sum(line.startswith(expected) for line in said) == 1
