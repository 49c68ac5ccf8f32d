import os
import unicodedata

import pytest

from focaldet.data.likeness import split_of
from focaldet.data.tree import AS_STATED, PhotoError, Tree


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return Tree(root)


def test_the_word_must_stand_alone():
    assert split_of("constrain_latest") == ""
    assert [split_of(n) for n in ("train2017", "my-Valid_set", "instances_test")] == ["train", "val", "test"]


def test_hidden_files_and_what_systems_leave_are_passed_over(tmp_path):
    found = tree(
        tmp_path,
        "a.jpg",
        "._a.jpg",
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "__MACOSX/a.jpg",
        "@eaDir/a.jpg/thumb.jpg",
        "b/.DS_Store",
    )
    assert found.files == ["a.jpg"]


@pytest.mark.parametrize(
    "stated",
    [
        "train/a.jpg",
        "./train/a.jpg",
        "train\\a.jpg",
        "/srv/upload/images/train/a.jpg",
        "C:\\Users\\me\\train\\a.jpg",
        "file:///C:/images/train/a.jpg",
        "../../train/a.jpg",
        "TRAIN/A.JPG",
        "images%2Ftrain%2Fa.jpg",
    ],
)
def test_a_photo_is_found_by_the_longest_part_of_its_path(tmp_path, stated):
    found = tree(tmp_path, "images/train/a.jpg", "images/val/a.jpg")
    assert found.photo(stated, beside="labels.json").name == "images/train/a.jpg"


def test_an_absolute_path_into_the_folder_is_the_stated_one(tmp_path, monkeypatch):
    found = tree(tmp_path / "set", "images/a.jpg", "a.jpg")
    path = str(tmp_path / "set" / "images" / "a.jpg")
    assert found.photo(path, beside="labels.json") == ("images/a.jpg", AS_STATED)
    monkeypatch.chdir(tmp_path)
    assert Tree((tmp_path / "set").relative_to(tmp_path)).photo(path, beside="l").name == "images/a.jpg"


@pytest.mark.parametrize("stated", ["b.jpg", "/elsewhere/b.jpg", "other/b.jpg"])
def test_two_photos_that_fit_equally_well_are_no_guess(tmp_path, stated):
    found = tree(tmp_path, "x/b.jpg", "y/b.jpg")
    with pytest.raises(PhotoError, match=r"x/b\.jpg and y/b\.jpg fit equally well"):
        found.photo(stated, beside="labels.json")


def test_the_folders_of_the_label_file_decide_between_photos_of_one_name(tmp_path):
    found = tree(tmp_path, "images/train/b.jpg", "images/val/b.jpg")
    assert found.photo("b.jpg", beside="annotations/instances_val.json").name == "images/val/b.jpg"
    assert found.photo_of("annotations/train/b.xml").name == "images/train/b.jpg"


def test_a_photo_of_another_split_is_another_photo(tmp_path):
    found = tree(tmp_path, "images/train/b.jpg")
    with pytest.raises(PhotoError, match=r"no photo 'val/b\.jpg'"):
        found.photo("val/b.jpg", beside="labels.json")
    with pytest.raises(PhotoError, match="no photo named 'b'"):
        found.photo_of("annotations/val/b.xml")


def test_a_name_that_leads_out_of_the_folder_is_never_opened(tmp_path):
    (tmp_path / "secret.jpg").touch()
    found = tree(tmp_path / "set", "images/a.jpg")
    for stated in ("../secret.jpg", str(tmp_path / "secret.jpg"), "images/../../secret.jpg", "..\\secret.jpg", "a\0b"):
        with pytest.raises(PhotoError, match="there is no photo"):
            found.photo(stated, beside="labels.json")


def test_the_only_photo_of_a_name_may_have_another_suffix_and_that_is_less_certain(tmp_path):
    found = tree(tmp_path, "images/a.png")
    assert found.photo("a.jpg", beside="labels.json") == ("images/a.png", 0)
    assert found.photo("a", beside="labels.json") == ("images/a.png", 1)


def test_names_may_be_composed_in_another_way(tmp_path):
    found = tree(tmp_path, unicodedata.normalize("NFD", "größe é.jpg"))
    assert found.photo(unicodedata.normalize("NFC", "größe é.jpg"), beside="labels.json").certainty == AS_STATED


def test_of_names_that_differ_in_case_the_exact_one_is_meant(tmp_path):
    found = tree(tmp_path, "a.JPG", "a.jpg")
    assert [found.photo(n, beside="l").name for n in ("a.JPG", "a.jpg")] == ["a.JPG", "a.jpg"]
    with pytest.raises(PhotoError, match="fit equally well"):
        found.photo("A.jpg", beside="l")


def test_a_linked_folder_is_part_of_the_folder_and_one_photo_is_one(tmp_path):
    tree(tmp_path / "pool", "b.jpg")
    tree(tmp_path / "set", "images/a.jpg")
    (tmp_path / "set" / "images" / "more").symlink_to(tmp_path / "pool")
    (tmp_path / "set" / "again.jpg").symlink_to(tmp_path / "pool" / "b.jpg")
    found = Tree(tmp_path / "set")
    assert found.files == ["again.jpg", "images/a.jpg", "images/more/b.jpg"]
    (tmp_path / "set" / "images" / "copy").symlink_to(tmp_path / "pool")
    assert Tree(tmp_path / "set").photo("b.jpg", beside="labels.json").name == "images/copy/b.jpg"


def test_links_in_a_circle_end(tmp_path):
    found = tree(tmp_path, "a/b/c.jpg")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to("self")
    found = Tree(tmp_path)
    assert found.files == ["a/b/c.jpg"]
    assert found.unusable == {"a/self"}


def test_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert Tree(tmp_path).files == []


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("images/train", ("images/train",)),
        ("../images/train/", ("images/train",)),
        ("/home/me/set/images/train", ("images/train",)),
        ("datasets/set/images/train", ("images/train",)),
        ("images/*/*.jpg", ("images/train/a.jpg", "images/val/b.jpg")),
        ("images/**/b.jpg", ("images/val/b.jpg",)),
        (".", ("",)),
        ("nowhere", None),
    ],
)
def test_an_entry_of_a_description_is_a_folder_a_file_or_a_pattern(tmp_path, stated, found):
    assert tree(tmp_path, "images/train/a.jpg", "images/val/b.jpg").entry(stated, ("",)) == found


def test_a_name_after_an_upload_means_the_photo_before_it_unless_a_photo_has_it(tmp_path):
    found = tree(tmp_path, "my photo (1).jpg", "1f0c9a3e-b.jpg", "b.jpg", "c.jpg", "d/e.jpg", "f/e.jpg")
    assert found.photo("1f0c9a3e-my_photo_1.jpg", beside="l.json") == ("my photo (1).jpg", 0)
    assert found.photo("images/1f0c9a3e-b.jpg", beside="l.json").name == "1f0c9a3e-b.jpg"
    assert found.photo_of("labels/77777777-c.xml").name == "c.jpg"
    with pytest.raises(PhotoError, match=r"no photo '20260131-c\.jpg'"):  # a date
        found.photo("20260131-c.jpg", beside="l.json")
    with pytest.raises(PhotoError, match=r"d/e\.jpg and f/e\.jpg fit equally well"):
        found.photo("1f0c9a3e-e.jpg", beside="l.json")
