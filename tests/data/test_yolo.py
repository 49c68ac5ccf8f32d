import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder

from .builders import CLASSES, PHOTOS, write_photo, write_yolo, yolo_lines


def test_fractions_become_pixels(tmp_path):
    write_yolo(tmp_path)
    folder = read_folder(tmp_path)
    assert folder.layout == "yolo"
    assert folder.class_names == CLASSES
    first = folder.splits["train"][0]
    assert first.file_name == "train/images/a.jpg"
    assert first.labels.tolist() == [0, 1]
    np.testing.assert_allclose(first.boxes_xyxy, [box for _, box in PHOTOS["a"]], atol=1e-4)
    assert folder.faults == ()


def test_a_photo_without_a_label_file_has_no_objects(tmp_path):
    write_yolo(tmp_path)
    assert [r.num_objects for r in read_folder(tmp_path).splits["val"]] == [0]


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{1: dog, 0: cat}"])
def test_names_may_be_a_list_or_a_mapping(tmp_path, names):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(f"path: /elsewhere\nnames: {names}\ntrain: train/images\nval: valid/images\n")
    assert read_folder(tmp_path).class_names == CLASSES


def test_a_split_may_be_a_list_of_files(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "train.txt").write_text("./train/images/b.jpg\n")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: train.txt\nval: valid/images\n")
    assert [r.file_name for r in read_folder(tmp_path).splits["train"]] == ["train/images/b.jpg"]


def test_bare_folders_with_a_list_of_classes_get_splits_made(tmp_path):
    for name, boxes in PHOTOS.items():
        write_photo(tmp_path / "images" / f"{name}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text(yolo_lines(boxes))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    folder = read_folder(tmp_path)
    assert {split: len(records) for split, records in folder.splits.items()} == {"train": 1, "val": 1, "test": 1}
    assert folder.split_origin.startswith("random splits (seed 0)")
    assert folder.faults == ()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("2 .5 .5 .1 .1", "unknown-class"),
        ("-1 .5 .5 .1 .1", "unknown-class"),
        ("0.5 .5 .5 .1 .1", "unknown-class"),
        ("nan .5 .5 .1 .1", "unknown-class"),
        ("0 nan .5 .1 .1", "not-a-number"),
        ("0 .5 .5 0 .1", "zero-area"),
        ("0 .5 .5 -.1 .1", "zero-area"),
        ("0 1.5 .5 .1 .1", "outside"),
        ("0 .5 .5 .1", "bad-entry"),
        ("cow .5 .5 .1 .1", "bad-entry"),
    ],
)
def test_one_faulty_line_leaves_the_others_usable(tmp_path, line, kind):
    write_yolo(tmp_path)
    file = tmp_path / "train" / "labels" / "a.txt"
    file.write_text(yolo_lines(PHOTOS["a"]) + line + "\n")
    folder = read_folder(tmp_path)
    assert len(folder.splits["train"][0].labels) == 2
    assert [(f.kind, f.file) for f in folder.faults] == [(kind, "train/labels/a.txt")]
    assert folder.faults[0].item.startswith("line 3")


def test_a_polygon_gives_its_bounding_box_and_a_confidence_is_passed_over(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "a.txt").write_text("1 .25 .25 .75 .5 .5 .75\n0 .5 .5 .5 .5 .93\n")
    boxes = read_folder(tmp_path).splits["train"][0].boxes_xyxy
    assert boxes.tolist() == [[16, 12, 48, 36], [16, 12, 48, 36]]


def test_labels_without_a_photo_are_named(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "gone.txt").write_text("0 .5 .5 .1 .1\n")
    assert [(f.kind, f.file) for f in read_folder(tmp_path).faults] == [("missing-image", "train/labels/gone.txt")]


def test_labels_that_are_no_text_leave_their_photo_out(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00\x01")
    folder = read_folder(tmp_path)
    assert [f.kind for f in folder.faults] == ["unreadable-annotation"]
    assert len(folder.splits["train"]) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [cat\n", "not readable as YAML"),
        ("names: cat\n", "expected 'names' as a list"),
        ("names: {a: cat, b: dog}\n", "expected 'names' as a list"),
        ("train: train/images\nval: valid/images\nnc: 2\n", "'names' is missing"),
        ("names: [[cat]]\n", "expected 'names' as a list"),
        ("names: []\n", "no class names"),
        ("names: [cat, dog]\ntrain: {a: 1}\n", "expected 'train' as a path"),
        ("names: [cat, dog]\ntrain: nowhere\n", "'nowhere' is not in"),
        ("names: [cat, dog]\ntrain: /etc\n", "'/etc' is not in"),
        ("names: [cat, dog]\ntrain: train/../../x\n", "is not in"),
    ],
)
def test_an_unusable_data_yaml_is_one_line(tmp_path, text, words):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"data\.yaml: .*{words}") as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_list_of_photos_cannot_leave_the_folder(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "train.txt").write_text("../../secret.jpg\n")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: train.txt\nval: valid/images\n")
    (tmp_path.parent / "secret.jpg").touch()
    with pytest.raises(InputError, match=r"missing-image: train\.txt: .*secret\.jpg.* leads out of the folder"):
        read_folder(tmp_path)


def test_nested_aliases_in_yaml_do_not_blow_up(tmp_path):
    write_yolo(tmp_path)
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 30)]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "names: [cat, dog]", "train: *a29"]))
    with pytest.raises(InputError, match="more than 100,000 values"):
        read_folder(tmp_path)


def test_photos_without_a_label_file_are_counted(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "a.txt").unlink()
    assert "2 of 3 photos have no label file: they are read as photos without objects" in read_folder(tmp_path).notes
