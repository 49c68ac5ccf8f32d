"""The drawn replacement for ../shared/data has the properties that tests rely on."""

from cell_photos import write_cells
from drawn_photos import CATEGORY_IDS, CELLS, SIZES, drawn_coco
from focaldet.data.folder import read_folder


def test_drawn_cells_have_the_classes_of_bccd_and_objects_in_each_photo(monkeypatch, tmp_path):
    monkeypatch.setattr("cell_photos.BCCD", tmp_path / "not there")
    folder = read_folder(write_cells(tmp_path / "cells", {"train": range(8), "val": range(8, 10)}))
    assert (folder.layout, folder.faults) == ("voc", ())
    assert folder.class_names == tuple(sorted(CELLS))
    for records in folder.splits.values():
        assert {(record.width, record.height) for record in records} == {(640, 480)}
        assert all(record.num_objects for record in records)


def test_drawn_coco_has_many_sizes_ids_with_gaps_and_a_crowd_in_each_split():
    folder = read_folder(drawn_coco())
    assert (folder.layout, folder.faults) == ("coco", ())
    assert folder.category_ids == CATEGORY_IDS
    for records in folder.splits.values():
        assert sum(int(record.ignored.sum()) for record in records) == 1
    assert {(record.width, record.height) for record in folder.splits["val"]} == set(SIZES)
