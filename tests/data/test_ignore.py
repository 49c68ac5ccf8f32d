import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.batching import DetectionDataset, collate
from focaldet.data.check import check_folder
from focaldet.data.folder import read_folder
from focaldet.data.ignore import ignore_classes
from focaldet.data.records import NO_CLASS
from focaldet.data.transforms import EvalTransform

from .builders import edit_json, write_coco, write_voc


def test_boxes_of_an_ignored_class_are_regions_and_the_others_keep_their_class(tmp_path):
    write_coco(tmp_path)
    plain = read_folder(tmp_path)
    folder = ignore_classes(plain, ["cat"])
    assert plain.class_names == ("cat", "dog")
    assert (folder.class_names, folder.ignored_classes) == (("dog",), ("cat",))
    a, b = folder.splits["train"]
    assert (a.labels.tolist(), a.ignored.tolist()) == ([NO_CLASS, 0], [True, False])
    assert (b.labels.tolist(), b.ignored.tolist()) == ([0], [False])
    assert np.array_equal(a.boxes_xyxy, plain.splits["train"][0].boxes_xyxy)


def test_crowds_of_kept_classes_stay_crowds_and_classes_can_be_ignored_one_after_the_other(tmp_path):
    edit_json(write_coco(tmp_path), lambda d: d["annotations"][1].update(iscrowd=1))
    first = ignore_classes(read_folder(tmp_path), ["cat"])
    assert first.splits["train"][0].labels.tolist() == [NO_CLASS, 0]
    assert first.splits["train"][0].ignored.tolist() == [True, True]
    write_voc(tmp_path / "voc", {"train": ["a", "b"], "val": ["c"]})
    (tmp_path / "voc" / "labels.txt").write_text("cat\ndog\nbird\n")
    one_by_one = ignore_classes(ignore_classes(read_folder(tmp_path / "voc"), ["cat"]), ["bird"])
    at_once = ignore_classes(read_folder(tmp_path / "voc"), ["cat", "bird"])
    for folder in (one_by_one, at_once):
        assert (folder.class_names, folder.ignored_classes) == (("dog",), ("cat", "bird"))
        assert folder.splits["train"][0].labels.tolist() == [NO_CLASS, 0]


def test_ignored_boxes_reach_the_batch_as_regions(tmp_path):
    write_coco(tmp_path)
    folder = ignore_classes(read_folder(tmp_path), ["dog"])
    truth = collate([DetectionDataset(folder.splits["train"], EvalTransform(64))[i] for i in range(2)]).truth
    assert (truth.boxes_xyxy.tolist(), truth.labels.tolist()) == ([[8, 8, 24, 40]], [0])
    assert truth.ignored_xyxy.tolist() == [[32, 4, 64, 24], [0, 0, 16, 12]]
    assert truth.ignored_image_index.tolist() == [0, 1]


def test_data_check_tells_what_is_ignored_in_each_split(tmp_path):
    train = write_coco(tmp_path, {"train": ["a", "b"], "val": ["a"]})
    edit_json(train, lambda d: d["annotations"][0].update(iscrowd=1))
    text = check_folder(ignore_classes(read_folder(tmp_path), ["dog"]), size=64, decode=False).text
    assert "neither objects nor background in train: 2 boxes of dog and 1 crowd\n" in text
    assert "neither objects nor background in val: 1 box of dog\n" in text
    plain = check_folder(read_folder(tmp_path), decode=False).text
    assert "neither objects nor background in train: 1 crowd\n" in plain
    assert "neither objects nor background in val" not in plain


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cta"], "--ignore cta: .* has no such class; did you mean 'cat'?"),
        (["cat", "dog"], "--ignore cat,dog: leaves no object in"),
    ],
)
def test_what_cannot_be_ignored_is_one_line(tmp_path, names, words):
    write_coco(tmp_path)
    with pytest.raises(InputError, match=words.replace("?", r"\?")) as caught:
        ignore_classes(read_folder(tmp_path), names)
    assert "\n" not in str(caught.value)
