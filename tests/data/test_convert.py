from pathlib import Path

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.convert import convert_folder
from focaldet.data.folder import read_folder

from .builders import coco_document, edit_json, write_coco, write_photo, write_voc, write_yolo

LAYOUTS = ["coco", "yolo", "voc", "labelme"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo])
def test_what_was_read_is_read_again_from_every_layout(tmp_path, write, layout):
    write(tmp_path / "old")
    old = read_folder(tmp_path / "old")
    assert convert_folder(old, tmp_path / "new", layout) == []
    new = read_folder(tmp_path / "new")
    assert (new.layout, new.class_names, new.faults, new.made_splits) == (layout, old.class_names, (), ())
    assert list(new.splits) == list(old.splits)
    for split, records in old.splits.items():
        for a, b in zip(records, new.splits[split], strict=True):
            assert a.path.name == b.path.name
            assert a.path.samefile(b.path)
            assert a.labels.tolist() == b.labels.tolist()
            np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=2e-3)


def test_bccd_keeps_every_box_in_every_layout(bccd, tmp_path):
    old = read_folder(bccd)
    for layout in LAYOUTS:
        convert_folder(old, tmp_path / layout, layout)
        new = read_folder(tmp_path / layout)
        assert new.faults == ()
        of_name = {r.path.name: r for records in new.splits.values() for r in records}
        for record in (r for records in old.splits.values() for r in records):
            again = of_name[record.path.name]
            assert [old.class_names[i] for i in record.labels] == [new.class_names[i] for i in again.labels]
            np.testing.assert_allclose(record.boxes_xyxy, again.boxes_xyxy, atol=2e-3)


def test_copies_are_files_of_their_own(tmp_path):
    write_coco(tmp_path / "old")
    convert_folder(read_folder(tmp_path / "old"), tmp_path / "new", "voc", copy=True)
    assert not (tmp_path / "new/JPEGImages/a.jpg").samefile(tmp_path / "old/images/a.jpg")
    assert (tmp_path / "new/JPEGImages/a.jpg").read_bytes() == (tmp_path / "old/images/a.jpg").read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_photos_of_one_name_are_kept_apart(tmp_path, layout):
    for split in ("train", "valid"):
        for day in ("one", "two"):
            write_photo(tmp_path / "old" / split / day / "a.jpg")
    for split in ("train", "valid"):
        document = coco_document(["a"])
        document["images"] = [
            document["images"][0] | {"id": i, "file_name": f"{d}/a.jpg"} for i, d in ((10, "one"), (11, "two"))
        ]
        edit = tmp_path / "old" / split / "_annotations.coco.json"
        edit.write_text("{}")
        edit_json(edit, lambda d, document=document: d.update(document))
    old = read_folder(tmp_path / "old")
    convert_folder(old, tmp_path / "new", layout)
    new = read_folder(tmp_path / "new")
    assert new.faults == ()
    assert {s: [r.num_objects for r in rs] for s, rs in new.splits.items()} == {"train": [2, 0], "val": [2, 0]}
    assert len({r.path for rs in new.splits.values() for r in rs}) == 4


def test_ignored_regions_are_kept_by_coco_and_named_by_the_others(tmp_path):
    edit_json(write_coco(tmp_path / "old"), lambda d: d["annotations"][0].update(iscrowd=1))
    old = read_folder(tmp_path / "old")
    assert convert_folder(old, tmp_path / "coco", "coco") == []
    assert read_folder(tmp_path / "coco").splits["train"][0].ignored.tolist() == [True, False]
    (line,) = convert_folder(old, tmp_path / "yolo", "yolo")
    assert line.startswith("1 ignored region")


def test_a_folder_that_is_there_is_refused_and_nothing_is_left_behind(tmp_path):
    write_coco(tmp_path / "old")
    old = read_folder(tmp_path / "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").touch()
    with pytest.raises(InputError, match="already exists"):
        convert_folder(old, tmp_path / "new", "coco")
    old.splits["train"][0].path.unlink()
    with pytest.raises(InputError, match="cannot be read or written"):
        convert_folder(old, tmp_path / "other", "coco")
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["new", "old"]


def test_a_name_that_is_no_text_is_refused_and_nothing_is_left_behind(tmp_path):
    """JSON may hold half of a surrogate pair."""
    edit_json(write_coco(tmp_path / "old"), lambda d: d["categories"][0].update(name="c\ud800t"))
    with pytest.raises(InputError, match=r"has a name that is not text: .*c\\ud800t.*; rename it"):
        convert_folder(read_folder(tmp_path / "old"), tmp_path / "new", "voc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
