import json

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.check import check_folder
from focaldet.data.digits import FREQUENCIES, make_digits
from focaldet.data.folder import read_folder
from focaldet.data.images import read_image


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp("digits") / "set", seed=1, train=60, val=10, test=10)


def test_the_set_is_a_coco_folder_without_a_fault(digits):
    folder = read_folder(digits)
    assert {split: len(records) for split, records in folder.splits.items()} == {"train": 60, "val": 10, "test": 10}
    assert folder.class_names == tuple("0123456789")
    report = check_folder(folder)
    assert report.faults == ()
    assert sum(report.images_without_objects.values()) > 0
    assert report.boxes["train"][0] > 3 * report.boxes["train"][9]
    assert (folder.splits["train"][0].width, folder.splits["train"][0].height) == (224, 168)


def test_frequencies_are_a_long_tail_of_ten_to_one():
    assert FREQUENCIES.sum() == pytest.approx(1)
    assert FREQUENCIES[0] / FREQUENCIES[9] == pytest.approx(10)


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path):
    folders = [make_digits(tmp_path / str(i), seed=seed, train=4, val=2, test=2) for i, seed in enumerate((5, 5, 6))]
    contents = [
        {p.relative_to(f).as_posix(): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()} for f in folders
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3 + 8
    assert all(contents[0][name] != contents[2][name] for name in contents[0])


def test_boxes_are_tight_around_the_ink(digits):
    # Just outside a box the picture is background, just inside ink begins: the largest step across the border is larger
    # than that of the background three pixels further out.
    steps, outside = [], []
    for record in read_folder(digits).splits["train"]:
        image = read_image(record.path).float().mean(0).numpy()
        for x1, y1, x2, y2 in record.boxes_xyxy.astype(int):
            if x2 - x1 >= 24 and x1 >= 8 and x2 <= record.width - 8:
                rows = image[y1:y2]
                steps.append(np.abs(rows[:, x1 + 1] - rows[:, x1 - 2]).max())
                outside.append(np.abs(rows[:, x1 - 4] - rows[:, x1 - 7]).max())
    assert len(steps) > 40
    assert np.median(steps) > 1.5 * np.median(outside)


def test_a_second_call_keeps_the_set_and_another_set_is_refused(digits):
    before = (digits / "annotations" / "train.json").stat().st_mtime_ns
    assert make_digits(digits, seed=1, train=60, val=10, test=10) == digits
    assert (digits / "annotations" / "train.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds something other than this digits set; remove it"):
        make_digits(digits, seed=2, train=60, val=10, test=10)


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full_disk(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full_disk)
    with pytest.raises(InputError, match=r"set: cannot be written \(No space left on device\); free space"):
        make_digits(tmp_path / "set", train=2, val=1, test=1)
    assert list(tmp_path.iterdir()) == []


def test_the_annotations_name_their_making(digits):
    info = json.loads((digits / "annotations" / "test.json").read_text())["info"]
    assert (info["seed"], info["train"], info["size"]) == (1, 60, 224)
