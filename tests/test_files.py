"""Reading untrusted files, and writing safely."""

import os
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from focaldet import files
from focaldet.checks import InputError
from focaldet.files import (
    check_archive,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    read_yaml,
    replacing,
    write_text,
)
from focaldet.folders import check_out


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("before")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "after")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "after"
    assert left_in(tmp_path) == ["link.txt", "real.txt"]


def test_a_link_to_nothing_yet_makes_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop"])
def test_what_is_no_regular_file_is_not_written_over(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "loop":
        place.symlink_to("place")
    elif not os.access("/dev", os.W_OK):
        pytest.skip("needs the right to make a device")
    else:
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # what /dev/null is
    before = place.lstat().st_mode
    with pytest.raises(InputError, match=r"place: (not a regular file|a folder|cannot be written \(Too many levels)"):
        write_text(place, "x")
    assert place.lstat().st_mode == before
    assert left_in(tmp_path) == ["place"]


@pytest.mark.parametrize("read", [read_text, read_json, read_yaml, open_regular])
def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="not a regular file; expected a file"):
        read(tmp_path / "fifo")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.txt").write_text("x" * 100)
    with pytest.raises(InputError, match="more than 50 bytes"):
        read_text(tmp_path / "large.txt", 50)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="not a regular file"):
        read_text(tmp_path / "zero")


def test_text_in_another_encoding_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt: not UTF-8 text \(byte 1\)"):
        read_text(tmp_path / "latin.txt")
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfname")
    assert read_text(tmp_path / "marked.txt") == "name"


@pytest.mark.parametrize(
    ("text", "words"),
    [("[" * 100_000, "nested too deeply"), ("9" * 400, "400 digits"), ("9" * 5000, "5000 digits"), ("{", "Expecting")],
)
def test_json_that_no_program_writes_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 100,000 values"),
        ("a: &a [*a]", "a value that holds itself"),
        ("[" * 5000, "nested too deeply"),
        ("a: 2020-13-45", "month"),
        ("a: !!int x", "invalid literal"),
        ("a: 0x" + "f" * 20, "64 bits"),
        ("a: !!python/name:os.system", "constructor"),
        ("a: [", "parsing"),
    ],
)
def test_yaml_that_no_person_writes_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"x\.yaml: not a YAML file that can be read \(.*{words}"):
        read_yaml(tmp_path / "x.yaml")


def test_names_in_yaml_may_be_used_twice(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {k: 1}\nb: *a\nc: {<<: *a, l: 2}\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 1, "l": 2}}


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from focaldet.files import replacing\n"
        "with replacing(Path(sys.argv[1], 'a.txt')) as beside:\n    beside.write_text('half'); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert len(left_in(tmp_path)) == 1
    write_text(tmp_path / "b.txt", "whole")
    assert left_in(tmp_path) == ["b.txt"]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with replacing(tmp_path / "a.txt") as beside:
        beside.write_text("first")
        monkeypatch.setattr(files, "_swept", set())
        threading.Thread(target=write_text, args=(tmp_path / "b.txt", "second")).start()
        while not (tmp_path / "b.txt").exists():
            pass
    assert (tmp_path / "a.txt").read_text() == "first"


@pytest.mark.parametrize(
    ("there", "kind", "fault"),
    [
        ([], "a run", ""),
        ([".DS_Store"], "a run", ""),
        (["model.json", "predictions.json"], "a run", ""),
        (["model.json", "predictions.json"], "predictions", "holds a run"),
        (["predictions.json", "photo.png"], "predictions", ""),
        (["study.json", "truth.json"], "a study", ""),
        (["study.json"], "a run", "holds a study"),
        (["neuron.json"], "a study", ""),
        (["thesis.tex"], "a demo", r"holds other files \(thesis\.tex\)"),
    ],
)
def test_a_command_writes_into_an_empty_folder_or_one_of_its_own(
    tmp_path: Path, there: list[str], kind: str, fault: str
) -> None:
    for name in there:
        (tmp_path / name).touch()
    if not fault:
        check_out(tmp_path, kind)
        return
    with pytest.raises(InputError, match=fault):
        check_out(tmp_path, kind)


def test_a_folder_that_is_a_file_or_not_there_yet(tmp_path: Path) -> None:
    check_out(tmp_path / "new", "a run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file; name a folder"):
        check_out(tmp_path / "file", "a run")


def test_a_file_that_states_no_size_is_read_to_its_end():
    assert read_bytes(Path("/proc/self/status"), 2**20).startswith(b"Name:")
    with pytest.raises(InputError, match="more than 10 bytes"):
        read_bytes(Path("/proc/self/status"), 10)


def test_a_bound_takes_no_memory_before_there_are_bytes(tmp_path):
    (tmp_path / "small").write_bytes(b"small")
    assert read_bytes(tmp_path / "small", 2**60) == b"small"


def test_an_archive_larger_than_itself_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(InputError, match="its parts are larger than itself"):
        check_archive(tmp_path / "bomb.pth")
    os.mkfifo(tmp_path / "fifo.pth")
    with pytest.raises(InputError, match="not a regular file"):
        check_archive(tmp_path / "fifo.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "bomb.pth").read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        check_archive(tmp_path / "cut.pth")
