from pathlib import Path

import pytest

from focaldet.checks import InputError
from focaldet.data.paths import inside, split_of


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/passwd", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", "C:/a.jpg", "a\0b"]
)
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(InputError, match=r"t\.json: file name .* leaves the data folder"):
        inside(Path("data"), name, "t.json")


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "sub/../a.jpg", "./a.jpg", "a..b.jpg", "..a.jpg"])
def test_a_name_that_stays_is_taken(name):
    assert inside(Path("data"), name, "t.json").name.endswith(".jpg")


def test_the_word_must_stand_alone():
    assert split_of("constrain_latest") == ""
    assert [split_of(n) for n in ("train2017", "my-Valid_set", "instances_test")] == ["train", "val", "test"]
