"""``focaldet predict`` on an exported file: photos, folders, videos, and invalid arguments."""

import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from colours import BOXES
from PIL import Image

from focaldet.cli import main
from focaldet.runtime.video import write_video

Predict = Callable[..., dict]
Refuse = Callable[..., str]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def predict(colours: Path, out: Path) -> Predict:
    """Runs the command; gives what it wrote."""

    def call(*paths: object, code: int = 0) -> dict:
        assert main(["predict", str(colours), *map(str, paths), "--out", str(out)]) == code
        document: dict = json.loads((out / "predictions.json").read_text())
        return document

    return call


@pytest.fixture
def refuse(colours: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Runs the command, which must be a mistake; gives its one line."""

    def call(*arguments: object, model: Path = colours) -> str:
        capfd.readouterr()
        assert main(["predict", str(model), *map(str, arguments), "--out", str(out)]) == 2
        line = capfd.readouterr().err
        assert line.startswith("focaldet: ")
        assert line.count("\n") == 1, line
        return line

    return call


def film(file: Path, frames: int = 4, size: tuple[int, int] = (64, 48)) -> Path:
    """A video that turns from green to blue."""
    pixels = [np.full((size[1], size[0], 3), (0, 250 - 60 * n, 60 * n), np.uint8) for n in range(frames)]
    write_video(file, [(Image.fromarray(picture), Fraction(10)) for picture in pixels])
    return file


def test_a_photo_is_drawn_and_its_boxes_written(predict: Predict, photo: Path, out: Path) -> None:
    document = predict(photo)
    assert [category["name"] for category in document["categories"]] == ["red", "green", "blue"]
    assert document["images"] == [{"id": 1, "file_name": str(photo), "width": 80, "height": 60}]
    green, blue = document["annotations"]
    assert green["category_id"] == 2
    assert green["score"] == pytest.approx(0.8)
    x1, y1, x2, y2 = (BOXES[1] * [80, 60, 80, 60]).tolist()
    assert green["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    assert green["side_std"] == pytest.approx([x1 / 10, y1 / 10, x2 / 10, y2 / 10])
    assert blue["category_id"] == 3
    with Image.open(out / "photo.png") as drawn, Image.open(photo) as plain:
        assert drawn.width % plain.width == 0
        assert drawn.crop((0, 0, *plain.size)).tobytes() != plain.tobytes()


def test_the_score_decides_what_is_written(predict: Predict, photo: Path) -> None:
    assert [entry["category_id"] for entry in predict(photo, "--score", 0.5)["annotations"]] == [2]
    assert predict(photo, "--score", 0.9)["annotations"] == []


def copies(photo: Path, folder: Path, *names: str) -> Path:
    """A folder with copies of a photo; what is named otherwise is a PNG all the same."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as image:
            image.save(folder / name, format="JPEG" if name.endswith((".jpg", ".jfif", ".jpe")) else "PNG")
    return folder


def drawn(out: Path) -> list[str]:
    return sorted(file.relative_to(out).as_posix() for file in out.rglob("*.png"))


def test_a_folder_is_looked_at_photo_by_photo_with_the_folders_in_it(
    predict: Predict, tmp_path: Path, photo: Path, out: Path
) -> None:
    folder = copies(photo, tmp_path / "photos", "b.png", "a.jpg", "c.JFIF", "deeper/down/d.png", "deeper/e.jpe")
    document = predict(folder)
    found = [Path(image["file_name"]).relative_to(folder).as_posix() for image in document["images"]]
    assert found == ["a.jpg", "b.png", "c.JFIF", "deeper/down/d.png", "deeper/e.jpe"]
    assert drawn(out) == ["a.png", "b.png", "c.png", "deeper/down/d.png", "deeper/e.png"]
    assert (out / "predictions.json").is_file()


def test_pictures_of_photos_of_one_name_in_two_folders_are_kept_apart(
    predict: Predict, tmp_path: Path, photo: Path, out: Path
) -> None:
    one = copies(photo, tmp_path / "one", "a.jpg", "x/a.jpg", "y/a.jpg", "y/a.png")
    two = copies(photo, tmp_path / "two", "x/a.jpg")
    assert len(predict(one, two)["images"]) == 5
    assert drawn(out) == ["a.png", "x/a.jpg.png", "x/a.png", "y/a.png", "y/a.png.png"]


def test_what_is_hidden_or_left_by_programs_is_no_photo(
    predict: Predict, tmp_path: Path, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    left = ("._a.png", ".hidden/a.png", "__MACOSX/._a.png", "__MACOSX/a.png", "x/.ipynb_checkpoints/a-checkpoint.png")
    folder = copies(photo, tmp_path / "photos", "a.png", *left)
    assert len(predict(folder)["images"]) == 1
    assert "skipped" not in capfd.readouterr().out


def test_files_of_a_folder_that_are_no_photos_are_counted_in_one_line(
    predict: Predict, tmp_path: Path, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    others = ("a.txt", "x/b.txt", "x/film.mp4", "README", "x/\x1b[31m.\x1b[31m")
    folder = copies(photo, tmp_path / "photos", "a.png", *others)
    predict(folder)
    (line,) = (line for line in capfd.readouterr().out.splitlines() if "skipped" in line)
    assert "2 .txt" in line
    assert "1 .mp4" in line
    assert "1 without a suffix" in line
    assert "\x1b" not in line


def test_a_linked_folder_is_looked_into_and_one_that_leads_back_ends(
    predict: Predict, tmp_path: Path, photo: Path
) -> None:
    folder = copies(photo, tmp_path / "photos", "a.png")
    (folder / "linked").symlink_to(copies(photo, tmp_path / "elsewhere", "b.png"))
    (folder / "again").symlink_to(folder)
    assert len(predict(folder)["images"]) == 2


def test_pictures_of_an_earlier_run_below_the_photos_are_not_looked_at(
    colours: Path, tmp_path: Path, photo: Path
) -> None:
    folder = copies(photo, tmp_path / "photos", "a.png", "x/b.png")
    for _ in range(2):
        assert main(["predict", str(colours), str(folder), "--out", str(folder / "found")]) == 0
        document = json.loads((folder / "found" / "predictions.json").read_text())
        assert len(document["images"]) == 2


def test_photos_that_are_brightened_are_told_in_one_line(
    predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((60, 80), 3000 + number, np.uint16)).save(folder / f"{number}.png")
    predict(folder)
    (line,) = (line for line in capfd.readouterr().out.splitlines() if "16 bits" in line)
    assert "3 (white is 4,095 in 3)" in line


@pytest.mark.parametrize("name", ["pipe.png", "pipe.mp4"])
def test_a_pipe_among_photos_is_named_and_not_waited_for(
    predict: Predict, tmp_path: Path, photo: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / name)
    assert len(predict(tmp_path / name, photo, code=2)["images"]) == 1
    assert f"{name}: not a regular file" in capfd.readouterr().err


def test_a_video_is_detected_frame_by_frame(predict: Predict, tmp_path: Path, out: Path) -> None:
    document = predict(film(tmp_path / "film.mp4"))
    assert [image["frame"] for image in document["images"]] == [0, 1, 2, 3]
    assert [image["seconds"] for image in document["images"]] == [0, 0.1, 0.2, 0.3]
    assert {(image["width"], image["height"]) for image in document["images"]} == {(64, 48)}
    best = {entry["image_id"]: entry["category_id"] for entry in reversed(document["annotations"])}
    assert best == {1: 2, 2: 2, 3: 2, 4: 3}
    import av

    with av.open(str(out / "film.mp4")) as drawn:
        assert len(list(drawn.decode(video=0))) == 4


def test_photos_beside_a_file_that_is_none_are_done(
    predict: Predict, tmp_path: Path, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = {"text.png": b"no photo", "empty.jpg": b"", "half.png": photo.read_bytes()[:100]}
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    document = predict(*(tmp_path / name for name in texts), photo, code=2)
    assert [image["file_name"] for image in document["images"]] == [str(photo)]
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [str(tmp_path / name) for name in texts]
    assert "not an image that can be read" in lines[0]
    assert "the file is empty" in lines[1]
    assert "damaged image" in lines[2]


@pytest.mark.parametrize("kept", [0, 0.4, 0.97])
def test_a_damaged_video_is_named_and_leaves_nothing(
    predict: Predict, tmp_path: Path, photo: Path, out: Path, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = film(tmp_path / "film.mp4", frames=30, size=(160, 120)).read_bytes()
    (tmp_path / "film.mp4").write_bytes(whole[: int(kept * len(whole))])
    document = predict(tmp_path / "film.mp4", photo, code=2)
    assert [image["file_name"] for image in document["images"]] == [str(photo)]
    assert {entry["image_id"] for entry in document["annotations"]} == {1}
    assert "film.mp4: not a readable video" in capfd.readouterr().err
    assert not (out / "film.mp4").exists()


def test_a_video_that_breaks_in_its_middle_is_forgotten_whole(
    predict: Predict, tmp_path: Path, photo: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from focaldet.checks import InputError
    from focaldet.runtime import predict as module

    read = module.read_video

    def breaking(file: Path, **options: object):
        for number, frame in enumerate(read(file)):
            if number == 2:
                raise InputError(f"{file}: not a readable video (the test)")
            yield frame

    monkeypatch.setattr(module, "read_video", breaking)
    document = predict(photo, film(tmp_path / "film.mp4"), code=2)
    assert [image["file_name"] for image in document["images"]] == [str(photo)]
    assert {entry["image_id"] for entry in document["annotations"]} == {1}
    assert not (out / "film.mp4").exists()


def test_a_photo_that_is_called_a_video_is_named(predict: Predict, tmp_path: Path, photo: Path) -> None:
    (tmp_path / "photo.mp4").write_text("no video")
    assert predict(tmp_path / "photo.mp4", code=2)["images"] == []


HOSTILE = [
    "-rf.png",
    "--out.png",
    "new\nline.png",
    "\x1b[31mred.png",
    "quote'\"`$(true).png",
    "snow ☃ 雪.png",
    "a..png",
    "x" * 251 + ".png",
    "trailing .png",
    "%s%d{0}.png",
    "<script>.png",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_names_are_only_names(
    predict: Predict, tmp_path: Path, photo: Path, out: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photo, folder / name)
    (folder / f"{name[:100]}-text.png").write_text("no photo")
    document = predict(folder, code=2)
    assert [image["file_name"] for image in document["images"]] == [str(folder / name)]
    assert {file.parent for file in out.iterdir()} == {out}
    assert len(list(out.iterdir())) == 2
    assert len(list(folder.iterdir())) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "\x1b" not in error


def test_a_file_name_that_is_no_text_is_only_a_name(predict: Predict, tmp_path: Path, photo: Path, out: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(photo, folder / name)
    (folder / os.fsdecode(b"\xff.png")).write_text("no photo")
    document = predict(folder, code=2)
    assert [Path(image["file_name"]).name for image in document["images"]] == [name]
    assert (out / name).is_file()


def test_a_folder_to_write_to_whose_name_is_no_text_is_only_a_name(
    colours: Path, tmp_path: Path, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / os.fsdecode(b"\xe9\x1b[31m")
    assert main(["predict", str(colours), str(photo), "--out", str(out)]) == 0
    assert (out / "predictions.json").is_file()
    assert "\x1b" not in capfd.readouterr().out


def test_paths_without_a_photo_are_refused(refuse: Refuse, tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty: contains no photo" in refuse(tmp_path / "empty")
    assert "nothing: no such file or folder" in refuse(tmp_path / "nothing")
    assert "cannot be read (File name too long)" in refuse("x" * 300)
    assert "missing PHOTO" in refuse()
    assert not out.exists()


def test_what_is_no_model_is_refused(refuse: Refuse, tmp_path: Path, photo: Path, out: Path) -> None:
    assert "photo.png: damaged or not an ONNX file" in refuse(photo, model=photo)
    assert "nothing.onnx: no such run folder or exported file" in refuse(photo, model=tmp_path / "nothing.onnx")
    assert "cannot be read (File name too long)" in refuse(photo, model=Path("x" * 300))
    assert not out.exists()


def test_a_score_that_the_file_does_not_look_at_is_refused(refuse: Refuse, photo: Path) -> None:
    assert "score: expected a number in [0.2, 1), got 0.1" in refuse(photo, "--score", "0.1")


def test_pictures_never_take_the_place_of_the_photos(refuse: Refuse, out: Path, photo: Path) -> None:
    out.mkdir()
    shutil.copy(photo, out / "photo.png")
    before = (out / "photo.png").read_bytes()
    assert "holds other files (photo.png)" in refuse(out)
    (out / "predictions.json").touch()
    assert "would overwrite photo.png itself" in refuse(out)
    assert (out / "photo.png").read_bytes() == before
