import shutil

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder

from .builders import PHOTOS, voc_xml, write_photo, write_voc

SPLITS = {"train": ["a", "b"], "val": ["c"]}


def test_pixel_indices_from_one_become_continuous_coordinates(tmp_path):
    write_voc(tmp_path, SPLITS)
    folder = read_folder(tmp_path)
    assert folder.layout == "voc"
    assert folder.class_names == ("cat", "dog")
    assert folder.splits["train"][0].boxes_xyxy.tolist() == [list(box) for _, box in PHOTOS["a"]]
    assert folder.splits["train"][0].labels.tolist() == [0, 1]
    assert folder.faults == ()


def test_difficult_objects_are_objects(tmp_path):
    write_voc(tmp_path, SPLITS)  # marks every object as difficult
    assert not any(r.ignored.any() for r in read_folder(tmp_path).splits["train"])


@pytest.mark.slow
def test_bccd_has_the_known_counts_and_two_boxes_without_area(bccd):
    folder = read_folder(bccd)
    assert {split: len(records) for split, records in folder.splits.items()} == {"train": 205, "val": 87, "test": 72}
    labels = np.concatenate([r.labels for records in folder.splits.values() for r in records])
    counts = {name: int((labels == i).sum()) for i, name in enumerate(folder.class_names)}
    assert counts == {"Platelets": 361, "RBC": 4155 - 2, "WBC": 372}
    assert [(f.kind, f.file) for f in folder.faults] == [
        ("zero-area", "Annotations/BloodImage_00338.xml"),
        ("zero-area", "Annotations/BloodImage_00343.xml"),
    ]
    assert all("(RBC)" in f.item and f.loses_box for f in folder.faults)
    assert folder.fault_summary() == (
        "faults in the data: 2 zero-area; boxes left out: 2, images left out: 0; "
        f"list them with: focaldet data check {bccd}"
    )


@pytest.mark.filterwarnings("ignore:OpenCV:UserWarning")  # supervision prefers it and says so when it is not there
def test_bccd_boxes_equal_those_of_supervision(bccd, tmp_path):
    supervision = pytest.importorskip("supervision")
    names = [f"BloodImage_{i:05d}" for i in (0, 10, 100, 200, 300, 343, 400)]  # 343 holds a box without area
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copy(bccd / folder / f"{name}{suffix}", tmp_path / folder)
    ours = {r.path.name: r.boxes_xyxy for records in read_folder(tmp_path).splits.values() for r in records}
    theirs = supervision.DetectionDataset.from_pascal_voc(str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations"))
    assert len(theirs) == len(ours) == len(names)
    for path, _, found in theirs:
        # Where xmin = xmax they make a box of one pixel.
        kept = found.xyxy[(found.xyxy[:, 2:] - found.xyxy[:, :2]).min(1) > 1]
        assert ours[path.rsplit("/", 1)[-1]].tolist() == kept.tolist()


def test_images_and_xml_side_by_side_are_read_by_folder(tmp_path):
    for split, names in {"train": ["a", "b"], "valid": ["c"]}.items():
        for name in names:
            write_photo(tmp_path / split / f"{name}.jpg")
            (tmp_path / split / f"{name}.xml").write_text(voc_xml(name, [("cat", (1, 1, 10, 10))]))
    folder = read_folder(tmp_path)
    assert {split: len(records) for split, records in folder.splits.items()} == {"train": 2, "val": 1}
    assert folder.splits["train"][0].file_name == "train/a.jpg"


def test_a_labels_file_says_the_order_of_the_classes(tmp_path):
    write_voc(tmp_path, SPLITS)
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    folder = read_folder(tmp_path)
    assert folder.class_names == ("dog", "cat")
    assert folder.splits["train"][0].labels.tolist() == [1, 0]


def test_a_class_that_the_labels_file_does_not_know_is_named_with_the_nearest(tmp_path):
    write_voc(tmp_path, SPLITS)
    (tmp_path / "labels.txt").write_text("cats\ndog\n")
    folder = read_folder(tmp_path)
    assert [f.kind for f in folder.faults] == ["unknown-class"]
    assert "did you mean 'cats'?" in folder.faults[0].problem
    assert folder.splits["train"][0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("xml", "kind"),
    [
        (voc_xml("a", [("cat", (1, 1, 9, 9)), ("cat", (20, 5, 20, 9))]), "zero-area"),
        (voc_xml("a", [("cat", (1, 1, 9, 9)), ("cat", (20, 5, "nan", 9))]), "not-a-number"),
        (voc_xml("a", [("cat", (1, 1, 9, 9)), ("cat", (20, 5, "wide", 9))]), "bad-entry"),
        (voc_xml("a", [("cat", (1, 1, 9, 9)), ("cat", (80, 5, 90, 9))]), "outside"),
        (voc_xml("a", [("cat", (1, 1, 9, 9))], size=(640, 48)), "size-differs"),
    ],
)
def test_one_faulty_object_leaves_the_others_usable(tmp_path, xml, kind):
    write_voc(tmp_path, SPLITS)
    (tmp_path / "Annotations" / "a.xml").write_text(xml)
    folder = read_folder(tmp_path)
    assert folder.splits["train"][0].boxes_xyxy.tolist() == [[0, 0, 9, 9]]
    assert [(f.kind, f.file) for f in folder.faults] == [(kind, "Annotations/a.xml")]


def test_a_stated_size_of_zero_means_not_known(tmp_path):
    write_voc(tmp_path, SPLITS)
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml("a", [("cat", (1, 1, 9, 9))], size=(0, 0)))
    assert read_folder(tmp_path).faults == ()


@pytest.mark.parametrize("xml", ["<annotation><object>", "", "no xml", "<html></html>"])
def test_one_unreadable_xml_leaves_its_image_out(tmp_path, xml):
    write_voc(tmp_path, SPLITS)
    (tmp_path / "Annotations" / "a.xml").write_text(xml)
    folder = read_folder(tmp_path)
    assert [r.file_name for r in folder.splits["train"]] == ["b.jpg"]
    assert [(f.kind, f.file) for f in folder.faults] == [("unreadable-annotation", "Annotations/a.xml")]


BOMB = '<!DOCTYPE a [<!ENTITY x "aaaa"><!ENTITY y "&x;&x;&x;&x;">]><annotation><filename>&y;</filename></annotation>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'


@pytest.mark.parametrize("xml", [BOMB, EXTERNAL])
def test_entities_in_xml_stop_with_one_line(tmp_path, xml):
    write_voc(tmp_path, SPLITS)
    (tmp_path / "Annotations" / "a.xml").write_text(xml)
    with pytest.raises(
        InputError, match=r"Annotations/a\.xml: the XML declares or includes entities.*remove"
    ) as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named_once(tmp_path):
    write_voc(tmp_path, SPLITS)
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    folder = read_folder(tmp_path)
    assert [(f.kind, f.file) for f in folder.faults] == [("missing-image", "Annotations/b.xml")]
    assert len(folder.splits["train"]) == 1


def test_a_listed_image_without_xml_and_one_listed_twice_are_named(tmp_path):
    write_voc(tmp_path, {"train": ["a", "b", "a", "gone"], "val": ["c"]})
    folder = read_folder(tmp_path)
    assert [(f.kind, f.item) for f in folder.faults] == [("missing-annotation", "gone"), ("duplicate-image", "a")]
    assert len(folder.splits["train"]) == 2


def test_a_list_without_a_usable_image_is_one_line(tmp_path):
    write_voc(tmp_path, {"train": ["x", "y"], "val": ["c"]})
    with pytest.raises(InputError, match=r"ImageSets/Main/train\.txt: none of its 2 images is usable"):
        read_folder(tmp_path)


def test_a_photo_without_xml_is_not_taken_for_an_empty_one(tmp_path):
    write_voc(tmp_path)
    write_photo(tmp_path / "JPEGImages" / "d.jpg")
    folder = read_folder(tmp_path)
    assert [(f.kind, f.file) for f in folder.faults] == [("missing-annotation", "JPEGImages/d.jpg")]
    assert sum(len(records) for records in folder.splits.values()) == 3
