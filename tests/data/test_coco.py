import json

import pytest

from focaldet.checks import InputError
from focaldet.data.folder import read_folder, read_labels

from .builders import coco_document, edit_json, png_header, write_coco, write_photo


def test_boxes_ids_and_classes_come_out_as_written(tmp_path):
    write_coco(tmp_path)
    folder = read_folder(tmp_path)
    assert folder.layout == "coco"
    assert folder.class_names == ("cat", "dog")
    first = folder.splits["train"][0]
    assert (first.file_name, first.image_id, first.width, first.height) == ("a.jpg", 10, 64, 48)
    assert first.boxes_xyxy.tolist() == [[8, 8, 24, 40], [32, 4, 64, 24]]
    assert first.labels.tolist() == [0, 1]
    assert [len(folder.splits["val"]), folder.splits["val"][0].num_objects] == [1, 0]
    assert folder.faults == ()


def test_coco_photos_are_read_as_they_are(coco_photos):
    folder = read_folder(coco_photos)
    counts = {split: (len(records), sum(len(r.labels) for r in records)) for split, records in folder.splits.items()}
    assert counts == {"train": (56, 388), "val": (29, 149)}
    assert [sum(int(r.ignored.sum()) for r in records) for records in folder.splits.values()] == [1, 1]
    assert (folder.num_classes, folder.class_names[0], folder.class_names[79]) == (80, "person", "toothbrush")
    assert folder.split_origin == "the folder's own splits"
    assert folder.faults == ()


def test_roboflow_exports_have_one_file_a_split(tmp_path):
    for split, names in {"train": ["a", "b"], "valid": ["c"]}.items():
        document = coco_document(names)
        # Roboflow's first category is the name of the project: no class.
        document["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"}] + [
            c | {"supercategory": "pets"} for c in document["categories"]
        ]
        for name in names:
            write_photo(tmp_path / split / f"{name}.jpg")
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(document))
    folder = read_folder(tmp_path)
    assert folder.class_names == ("cat", "dog")
    assert {k: len(v) for k, v in folder.splits.items()} == {"train": 2, "val": 1}
    assert folder.splits["train"][0].labels.tolist() == [0, 1]


def test_images_may_lie_in_folders_of_coco_2017(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split, names in {"train2017": ["a"], "val2017": ["b"]}.items():
        write_photo(tmp_path / split / f"{names[0]}.jpg")
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_document(names)))
        (tmp_path / "annotations" / f"captions_{split}.json").write_text("{}")
    folder = read_folder(tmp_path)
    assert {k: len(v) for k, v in folder.splits.items()} == {"train": 1, "val": 1}
    assert folder.faults == ()


def test_a_split_with_other_category_ids_is_matched_by_name(tmp_path):
    write_coco(tmp_path, {"test": ["b"], "train": ["a", "c"]})

    def renumber(document):
        document["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
        document["annotations"][0]["category_id"] = 1

    edit_json(tmp_path / "annotations" / "test.json", renumber)
    folder = read_folder(tmp_path)
    assert folder.class_names == ("cat", "dog")  # the training file's order
    assert folder.splits["test"][0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("images"), "the key 'images' is missing"),
        (lambda d: d.pop("annotations"), "the key 'annotations' is missing"),
        (lambda d: d.pop("categories"), "the key 'categories' is missing"),
        (lambda d: d.update(images={"a": 1}), "'images' is a dict, expected a list"),
        (lambda d: d.update(categories=[]), "no categories"),
        (lambda d: d["categories"].append({"id": [1], "name": "y"}), r"categories\[2\]: expected an object"),
        (lambda d: d["categories"].append({"id": 5, "name": "y"}), "the id 5 occurs twice"),
        (lambda d: d["categories"].append({"id": 6, "name": "cat"}), "two categories have the same name"),
    ],
)
def test_a_file_that_is_unusable_as_a_whole_is_one_line(tmp_path, change, words):
    edit_json(write_coco(tmp_path), change)
    with pytest.raises(InputError, match=rf"annotations/train\.json.*{words}") as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"images": [', "", "[1, 2]", "[" * 100_000])
def test_what_is_not_coco_json_is_one_line(tmp_path, text):
    write_coco(tmp_path).write_text(text)
    (tmp_path / "annotations" / "val.json").unlink()
    with pytest.raises(InputError, match=r"annotations/train\.json: (not readable as JSON|expected a JSON object)"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda a: a.update(bbox=[1, 2, float("nan"), 4]), "not-a-number"),
        (lambda a: a.update(bbox=[1, 2, float("inf"), 4]), "not-a-number"),
        (lambda a: a.update(bbox=[1, 2, 10**400, 4]), "bad-entry"),
        (lambda a: a.update(bbox=[1, 2, 3]), "bad-entry"),
        (lambda a: a.update(bbox="1 2 3 4"), "bad-entry"),
        (lambda a: a.update(bbox=[1, 2, True, 4]), "bad-entry"),
        (lambda a: a.update(bbox=[1, 2, 0, 4]), "zero-area"),
        (lambda a: a.update(bbox=[100, 2, 5, 4]), "outside"),
        (lambda a: a.pop("bbox"), "bad-entry"),
        (lambda a: a.pop("image_id"), "bad-entry"),
        (lambda a: a.pop("category_id"), "bad-entry"),
        (lambda a: a.update(category_id=99), "unknown-class"),
        (lambda a: a.update(category_id="cat"), "unknown-class"),
        (lambda a: a.update(category_id=["cat"]), "bad-entry"),
        (lambda a: a.update(bbox=["1_0", 2, 3, 4]), "bad-entry"),
        (lambda a: a.update(image_id=12345), "bad-entry"),
    ],
)
def test_one_faulty_annotation_is_left_out_and_named(tmp_path, change, kind):
    edit_json(write_coco(tmp_path), lambda d: change(d["annotations"][1]))
    folder = read_folder(tmp_path)
    assert folder.splits["train"][0].boxes_xyxy.tolist() == [[8, 8, 24, 40]]
    assert [(f.kind, f.file) for f in folder.faults] == [(kind, "annotations/train.json")]
    assert "annotations[1]" in folder.faults[0].item


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda d: d["images"].append("a.jpg"), "bad-entry"),
        (lambda d: d["images"].append({"id": 3}), "bad-entry"),
        (lambda d: d["images"].append({"id": {}, "file_name": "c.jpg"}), "bad-entry"),
        (lambda d: d["images"].append({"id": 3, "file_name": "../gone.jpg"}), "missing-image"),
        (lambda d: d["images"].append({"id": 3, "file_name": "/etc/passwd"}), "missing-image"),
        (lambda d: d["images"].append({"id": 3, "file_name": "gone.jpg"}), "missing-image"),
        (lambda d: d["images"][0].update(width=640), "size-differs"),
        (lambda d: d["annotations"].append(d["annotations"][0]), "duplicate-box"),
    ],
)
def test_one_faulty_image_entry_leaves_the_rest_usable(tmp_path, change, kind):
    edit_json(write_coco(tmp_path), change)
    folder = read_folder(tmp_path)
    assert [len(r.labels) for r in folder.splits["train"]] == [2, 1]
    assert [f.kind for f in folder.faults] == [kind]


def test_photos_that_share_an_id_are_left_out(tmp_path):
    edit_json(write_coco(tmp_path), lambda d: d["images"].append({"id": 10, "file_name": "c.jpg"}))
    folder = read_folder(tmp_path)
    assert folder.class_names == ("cat", "dog")
    assert {r.file_name for r in folder.splits["train"]} == {"b.jpg"}
    assert {f.kind for f in folder.faults} == {"duplicate-image", "bad-entry"}


def test_if_every_box_is_faulty_there_is_one_line(tmp_path):
    write_coco(tmp_path, {"train": ["b"]})
    edit_json(tmp_path / "annotations" / "train.json", lambda d: d["annotations"][0].update(bbox=[float("nan")] * 4))
    with pytest.raises(InputError, match="no usable box in any image; the first fault: not-a-number"):
        read_folder(tmp_path)


def test_if_every_image_is_faulty_there_is_one_line(tmp_path):
    write_coco(tmp_path, {"train": ["b"]})
    (tmp_path / "images" / "b.jpg").unlink()
    png_header(tmp_path / "images" / "b.jpg", 200_000, 100_000)
    with pytest.raises(InputError, match=r"no usable image; the first fault: unreadable-image.*10,000,000,000 pixels"):
        read_folder(tmp_path)


def test_two_files_for_one_split_are_an_error(tmp_path):
    file = write_coco(tmp_path)
    (file.parent / "train_old.json").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"train\.json and annotations/train_old\.json describe the split 'train'"):
        read_folder(tmp_path)


def test_one_coco_file_is_read_by_itself(tmp_path):
    file = write_coco(tmp_path)
    folder, whole = read_labels(file), read_folder(tmp_path)
    assert list(folder.splits) == ["train"]
    assert [r.path for r in folder.splits["train"]] == [r.path for r in whole.splits["train"]]
    assert folder.class_names == whole.class_names


def test_a_coco_file_beside_its_photos_names_no_split(tmp_path):
    for name in "ab":
        write_photo(tmp_path / f"{name}.jpg")
    (tmp_path / "labels.json").write_text(json.dumps(coco_document(["a", "b"])))
    (records,) = read_labels(tmp_path / "labels.json").splits.values()
    assert [r.num_objects for r in records] == [2, 1]


def test_a_folder_of_labels_is_a_data_folder(tmp_path):
    write_coco(tmp_path)
    assert list(read_labels(tmp_path).splits) == list(read_folder(tmp_path).splits)
