"""Videos: every frame once, upright, and whole files or none."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from focaldet.checks import InputError
from focaldet.runtime import video
from focaldet.runtime.video import read_video, write_video

TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Degrees clockwise -> the first four numbers of the matrix that an MP4 has for them."""


def halves(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = pixels[:, size[0] // 2 :, 2] = 200
    return Image.fromarray(pixels)


def written(file: Path, frames: int = 3, size: tuple[int, int] = (64, 48)) -> Path:
    write_video(file, [(halves(size), Fraction(25, 2))] * frames)
    return file


def turn(file: Path, degrees: int) -> None:
    """Write into an MP4 that it is to be shown turned clockwise."""
    data = bytearray(file.read_bytes())
    place = data.index(b"tkhd") + 44
    for number, value in zip((0, 1, 3, 4), TURNS[degrees], strict=True):
        data[place + 4 * number : place + 4 * number + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    file.write_bytes(data)


def test_frames_have_the_pixels_times_and_rate_that_were_written(tmp_path: Path) -> None:
    frames = list(read_video(written(tmp_path / "film.mp4")))
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.08, 0.16])
    assert {frame.rate for frame in frames} == {Fraction(25, 2)}
    for frame in frames:
        difference = frame.photo.astype(int) - np.asarray(halves())
        assert np.abs(difference[:, [8, 55]]).max() < 12  # away from the edge, which colours of 2 x 2 pixels blur


@pytest.mark.parametrize("degrees", TURNS)
def test_a_turned_film_is_seen_upright(tmp_path: Path, degrees: int) -> None:
    file = written(tmp_path / "film.mp4")
    turn(file, degrees)
    expected = np.rot90(np.asarray(halves()), -degrees // 90)
    for frame in read_video(file):
        assert frame.photo.shape == expected.shape
        assert np.abs(frame.photo.astype(int) - expected).mean() < 8


def test_odd_sides_are_cut_to_even_ones_in_what_is_written(tmp_path: Path) -> None:
    (frame,) = read_video(written(tmp_path / "film.mp4", frames=1, size=(63, 47)))
    assert frame.photo.shape == (48, 64, 3)


def test_a_film_without_frames_is_still_a_file(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", [])
    assert list(tmp_path.iterdir()) == [tmp_path / "film.mp4"]


def test_a_file_with_sound_alone_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sound.mkv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"sound\.mkv: contains no pictures"):
        list(read_video(file))


def test_a_film_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"film\.mp4: no such file"):
        list(read_video(tmp_path / "film.mp4"))


def test_frames_of_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "film.mp4")
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(InputError, match="more than 3,071 pixels per frame; scale it down"):
        list(read_video(file))


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'focaldet\[video\]'"):
        list(read_video(tmp_path / "film.mp4"))


def test_an_error_leaves_the_film_that_was_there(tmp_path: Path) -> None:
    file = written(tmp_path / "film.mp4")
    before = file.read_bytes()

    def breaking():
        yield halves(), Fraction(25)
        raise InputError("the reader's fault")

    with pytest.raises(InputError, match="the reader's fault"):
        write_video(file, breaking())
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_film_that_was_cut_short_tells_how_many_frames_it_has(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"film.{suffix}"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_image(Image.effect_noise((64, 48), 10 + number).convert("RGB"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    lines: list[str] = []
    assert len(list(read_video(file, note=lines.append))) == 60
    assert lines == []
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    count = len(list(read_video(file, note=lines.append)))
    assert 10 < count < 50
    assert lines == [f"{file}: ends after {count} of about 60 frames; fetch it again"]


def test_a_film_is_a_file_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:film.mp4", "http:film.mp4", "-film.mp4"):
        assert len(list(read_video(written(Path(name))))) == 3


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_a_list_of_other_files_is_no_film(tmp_path: Path, text: str) -> None:
    other = written(tmp_path / "film.mp4")
    (tmp_path / "list.mp4").write_text(text.format(other))
    with pytest.raises(InputError, match=r"list\.mp4: not a readable video"):
        list(read_video(tmp_path / "list.mp4"))
