import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder

from .builders import coco_document, edit_json, write_coco, write_photo, write_voc, write_yolo


def test_a_file_a_missing_and_an_empty_folder_are_one_line_each(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, words in (("file", "not a folder"), ("gone", "no such folder"), ("empty", "the folder is empty")):
        with pytest.raises(InputError, match=f"{name}: {words}") as caught:
            read_folder(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_unknown_layout_says_what_was_looked_for(tmp_path):
    write_photo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"no layout recognised; looked for .*COCO.*Pascal VOC.*YOLO"):
        read_folder(tmp_path)


def test_the_three_layouts_of_one_set_give_the_same_records(tmp_path):
    write_coco(tmp_path / "coco")
    write_voc(tmp_path / "voc", {"train": ["a", "b"], "val": ["c"]})
    write_yolo(tmp_path / "yolo")
    coco, voc, yolo = (read_folder(tmp_path / name) for name in ("coco", "voc", "yolo"))
    assert coco.class_names == voc.class_names == yolo.class_names
    for split in ("train", "val"):
        for a, b, c in zip(coco.splits[split], voc.splits[split], yolo.splits[split], strict=True):
            assert a.path.name == b.path.name == c.path.name
            assert (a.width, a.height) == (b.width, b.height) == (c.width, c.height)
            assert a.labels.tolist() == b.labels.tolist() == c.labels.tolist()
            assert a.boxes_xyxy.tolist() == b.boxes_xyxy.tolist()
            np.testing.assert_allclose(a.boxes_xyxy, c.boxes_xyxy, atol=1e-4)


def test_the_way_of_recognition_is_said(tmp_path):
    write_yolo(tmp_path)
    assert "YOLO" in read_folder(tmp_path).description
    assert "data.yaml" in read_folder(tmp_path).description


def _unsplit(root, count):
    document = coco_document([])
    for i in range(count):
        write_photo(root / "images" / f"{i:02d}.jpg")
        document["images"].append({"id": i, "file_name": f"{i:02d}.jpg"})
        document["annotations"].append({"image_id": i, "category_id": 5, "bbox": [1, 1, 9, 9]})
    (root / "annotations").mkdir()
    (root / "annotations" / "all.json").write_text("{}")
    edit_json(root / "annotations" / "all.json", lambda d: d.update(document))


def test_made_splits_part_the_set_and_depend_on_the_seed_only(tmp_path):
    _unsplit(tmp_path, 20)
    names = [
        {split: [r.file_name for r in records] for split, records in read_folder(tmp_path, seed=seed).splits.items()}
        for seed in (0, 0, 1)
    ]
    assert {split: len(found) for split, found in names[0].items()} == {"train": 14, "val": 3, "test": 3}
    assert sorted(name for found in names[0].values() for name in found) == [f"{i:02d}.jpg" for i in range(20)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_made_split_is_ever_empty(tmp_path, count):
    _unsplit(tmp_path, count)
    assert all(len(records) >= 1 for records in read_folder(tmp_path).splits.values())


def test_a_missing_validation_split_is_made_from_the_training_split(tmp_path):
    write_coco(tmp_path, {"train": ["a", "b"], "test": ["c"]})
    folder = read_folder(tmp_path)
    assert {split: len(records) for split, records in folder.splits.items()} == {"train": 1, "val": 1, "test": 1}
    assert folder.splits["test"][0].file_name == "c.jpg"
    assert "val split off from train (seed 0" in folder.split_origin


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"train": ["a"], "val": ["b"], "test": ["c"]}, ()),
        ({"train": ["a"], "val": ["b"]}, ()),
        ({"train": ["a", "b"], "test": ["c"]}, ("train", "val")),
        ({"all": ["a", "b"], "test": ["c"]}, ("train", "val")),
        ({"all": ["a", "b", "c"]}, ("train", "val", "test")),
        ({"val": ["a", "b", "c"]}, ("train", "val", "test")),
    ],
)
def test_the_splits_that_the_layout_does_not_give_are_told(tmp_path, given, made):
    write_coco(tmp_path, given)
    assert read_folder(tmp_path).made_splits == made


def test_pooled_files_with_the_same_ids_are_numbered_anew(tmp_path):
    write_coco(tmp_path, {"part_one": ["a", "b"], "val": ["a", "c"]})
    records = [r for found in read_folder(tmp_path).splits.values() for r in found]
    assert sorted(r.image_id for r in records) == [0, 1, 2, 3]


def test_lists_that_are_no_text_are_one_line(tmp_path):
    write_voc(tmp_path, {"train": ["a", "b"], "val": ["c"]})
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"^labels\.txt: not a text file in UTF-8"):
        read_folder(tmp_path)


def test_a_file_that_the_system_refuses_is_one_line(tmp_path):
    write_coco(tmp_path).unlink()
    (tmp_path / "annotations" / "train.json").symlink_to("/proc/self/mem")  # its first byte cannot be read
    with pytest.raises(InputError, match=r"cannot be read \(Input/output error\)"):
        read_folder(tmp_path)


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "annotations" / "more.json").symlink_to(tmp_path / "gone.json")
    assert [(f.kind, f.file) for f in read_folder(tmp_path).faults] == [("not-a-file", "annotations/more.json")]


def test_images_in_no_split_are_counted_aloud(tmp_path):
    write_coco(tmp_path, {"train": ["a"], "val": ["b"], "extra": ["c"]})
    assert read_folder(tmp_path).split_origin == "the folder's own splits; 1 images outside them are not used"
