import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.data.check import check_folder
from focaldet.data.folder import read_folder
from focaldet.data.object_sizes import median_sides, small_classes_line
from focaldet.data.records import ImageRecord

from .builders import edit_json, write_coco


def test_images_boxes_and_imbalance_are_counted(tmp_path):
    write_coco(tmp_path)
    report = check_folder(read_folder(tmp_path), size=64)
    assert report.images == {"train": 2, "val": 1}
    assert report.images_without_objects == {"train": 0, "val": 1}
    assert {split: counts.tolist() for split, counts in report.boxes.items()} == {"train": [1, 2], "val": [0, 0]}
    assert report.imbalance == 2.0
    assert "imbalance of the classes in train: 2.0 : 1" in report.text


def test_objects_fall_to_the_level_with_the_nearest_anchor(tmp_path):
    write_coco(tmp_path)
    # √area at 64 px: 22.6, 25.3 and 13.9; anchors of 8, 32 and 128 px, whose borders are at 16 and 64 px.
    report = check_folder(read_folder(tmp_path), size=64, strides=(1, 4, 16), decode=False)
    assert report.level_counts.tolist() == [1, 2, 0]
    assert report.median_side_px == pytest.approx(np.sqrt(16 * 32))


def test_objects_beyond_the_reach_of_their_level_are_counted(tmp_path):
    write_coco(tmp_path)
    folder = read_folder(tmp_path)
    # The longer half sides are 16, 16 and 8 px, on levels of stride 4, 4 and 1.
    for num_bins, beyond in ((9, 0), (8, 1), (5, 1), (4, 3)):
        report = check_folder(folder, size=64, strides=(1, 4, 16), num_bins=num_bins, decode=False)
        assert report.beyond_reach == beyond


def test_every_fault_is_printed_with_file_and_item(tmp_path):
    edit_json(write_coco(tmp_path), lambda d: d["annotations"][1].update(bbox=[1, 1, 0, 5]))
    text = check_folder(read_folder(tmp_path)).text
    assert "1 fault:" in text
    assert "zero-area: annotations/train.json: a.jpg: annotations[1] (dog): width 0 and height 5 pixels" in text


def test_a_truncated_image_is_found_by_decoding_only(tmp_path):
    write_coco(tmp_path)
    path = tmp_path / "images" / "b.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    folder = read_folder(tmp_path)
    assert folder.faults == ()
    assert check_folder(folder, decode=False).faults == ()
    assert [(f.kind, f.file) for f in check_folder(folder).faults] == [("damaged-image", "b.jpg")]


def test_equal_files_are_told_within_a_split_and_as_a_leak_across_splits(tmp_path):
    write_coco(tmp_path)
    images = tmp_path / "images"
    shutil.copy(images / "a.jpg", images / "b.jpg")
    shutil.copy(images / "a.jpg", images / "c.jpg")
    faults = check_folder(read_folder(tmp_path)).faults
    assert [(f.kind, f.file) for f in faults] == [("duplicate-content", "b.jpg"), ("leak", "c.jpg")]
    assert "val holds the same file as train (a.jpg)" in str(faults[1])


def test_a_class_without_a_training_object_is_named(tmp_path):
    write_coco(tmp_path, {"train": ["b"], "val": ["a"]})
    assert "without a training object: cat" in check_folder(read_folder(tmp_path)).text


def test_bccd_report_names_its_two_faults(bccd):
    report = check_folder(read_folder(bccd), decode=False)
    assert [f.file for f in report.faults] == [
        "Annotations/BloodImage_00338.xml",
        "Annotations/BloodImage_00343.xml",
    ]
    assert round(report.imbalance, 1) == 11.4
    assert int(report.level_counts.sum()) == 4886


def record_with(sides, labels, width=640, height=480):
    boxes = np.array([[10.0, 10, 10 + side, 10 + side] for side in sides], np.float32).reshape(-1, 4)
    return ImageRecord(
        path=Path("photo.png"),
        file_name="photo.png",
        image_id=0,
        width=width,
        height=height,
        boxes_xyxy=boxes,
        labels=np.array(labels, np.int64),
        ignored=np.zeros(len(sides), bool),
    )


def test_classes_whose_median_object_is_small_at_the_size_of_training_are_named():
    records = [
        record_with([30, 90, 40], [0, 1, 0]),
        record_with([], []),
        record_with([300], [0], width=1280, height=900),
    ]
    # At 320 px: class 0 has sides of 15, 20 and 75 px, class 1 one of 45.
    line = small_classes_line(median_sides(records, 320), ("platelet", "cell"), size=320, stride=8)
    assert "platelet (20 px)" in line
    assert "cell" not in line
    assert "--levels p2-p6" in line
    assert "p2-p6" not in small_classes_line(median_sides(records, 160), ("platelet", "cell"), size=160, stride=4)
    assert small_classes_line(median_sides(records, 320), ("platelet", "cell"), size=320, stride=4) == ""
    assert small_classes_line(median_sides([], 320), (), size=320, stride=8) == ""


def test_photos_of_12_bits_are_a_note_and_no_fault(tmp_path):
    write_coco(tmp_path)
    for name in "ab":
        values = np.random.default_rng(0).integers(0, 4096, (48, 64)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "images" / f"{name}.jpg", format="PNG")
    report = check_folder(read_folder(tmp_path), size=64)
    assert len(report.notes) == 1
    assert "16 bits: 2 (white is 4,095 in 2)" in report.text


def test_a_truncated_photo_says_what_training_does_about_it(tmp_path):
    write_coco(tmp_path)
    photo = tmp_path / "images" / "a.jpg"
    photo.write_bytes(photo.read_bytes()[:-500])
    report = check_folder(read_folder(tmp_path), size=64)
    (fault,) = (fault for fault in report.faults if fault.kind == "damaged-image")
    assert "--verify" in str(fault)
