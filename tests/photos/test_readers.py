"""Which files open as photos and which are rejected, each with one accurate line."""

import contextlib
import os
import sys
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from focaldet.checks import InputError
from focaldet.photos import images
from focaldet.photos.images import IMAGE_SUFFIXES, SUFFIX_FORMATS, read_header, read_photo
from focaldet.photos.scans import MAX_SCANS, too_many_scans

from .pictures import jpeg_of_scans


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_one_whose_format_is_read(tmp_path, suffix):
    formats = SUFFIX_FORMATS[suffix]
    Image.new("RGB", (16, 16), (25, 204, 102)).save(tmp_path / f"a{suffix}", format=formats[0])
    assert read_header(tmp_path / f"a{suffix}").format in formats
    assert np.abs(read_photo(tmp_path / f"a{suffix}").astype(int) - (25, 204, 102)).max() < 6


def test_the_other_names_of_jpeg_files_are_images():
    assert {".jpg", ".jpeg", ".jpe", ".jfif"} <= IMAGE_SUFFIXES


@pytest.mark.parametrize(
    ("brand", "format", "remedy"),
    [(b"heic", "HEIF", "pillow-heif"), (b"mif1", "HEIF", "pillow-heif"), (b"avif", "AVIF", "11.3")],
)
def test_a_format_that_needs_another_package_names_it(tmp_path, monkeypatch, brand, format, remedy):
    monkeypatch.setattr(images, "_MISSING", {"AVIF", "HEIF"})
    images._formats.cache_clear()
    try:
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x20ftyp" + brand + bytes(40))
        with pytest.raises(InputError, match=rf"a\.heic: {format} cannot be read here.*pip install.*{remedy}"):
            read_photo(tmp_path / "a.heic")
    finally:
        images._formats.cache_clear()


def float_colours(file):
    """An RGB TIFF of float32, which Pillow does not know."""
    import struct

    entries = {256: 1, 257: 1, 258: 32, 259: 1, 262: 2, 273: 8, 277: 3, 278: 1, 279: 12, 339: 3}
    rows = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    file.write_bytes(b"II*\0" + struct.pack("<I", 20) + bytes(12) + struct.pack("<H", len(entries)) + rows + bytes(4))


def test_floating_point_pixels_are_called_that_and_not_damaged(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "grey.tif")
    (tmp_path / "grey.pfm").write_bytes(b"Pf\n1 1\n-1.0\n\0\0\0\0")
    float_colours(tmp_path / "colours.tif")
    for name, words in (
        ("grey.tif", "floating-point"),
        ("grey.pfm", "floating-point"),
        ("colours.tif", "TIFF file with pixels"),
    ):
        for read in (read_header, read_photo):
            with pytest.raises(InputError, match=rf"{name}: .*{words}.*save it with 8 or 16 bits") as caught:
                read(tmp_path / name)
            assert "damaged" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFO there")
@pytest.mark.parametrize("read", [read_header, read_photo])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg: not a regular file"):
        read(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="not a regular file"):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "a.jpg").touch(mode=0)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read \(Permission denied\)"):
        read_photo(tmp_path / "a.jpg")


def test_a_jpeg_of_thousands_of_scans_is_refused_from_file_and_from_memory(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_of_scans(5000))
    for source in (tmp_path / "a.jpg", BytesIO(jpeg_of_scans(5000))):
        with pytest.raises(InputError, match=f"more than {MAX_SCANS} scans"):
            read_photo(source)


def test_a_progressive_jpeg_of_ordinary_scans_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_of_scans(0))
    assert read_photo(tmp_path / "a.jpg").shape == (48, 64, 3)


def test_nothing_behind_a_scan_of_the_whole_picture_is_searched():
    """A decoder ends there: such a file is damaged at once, not slow."""
    assert not too_many_scans(jpeg_of_scans(5000, progressive=False))
    with pytest.raises(InputError, match="damaged image"):
        read_photo(BytesIO(jpeg_of_scans(5000, progressive=False)))


def test_a_tiff_whose_tags_are_cut_off_makes_no_warning(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.tif", compression="tiff_lzw")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:-40])
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(InputError):
        warnings.simplefilter("always")
        read_header(tmp_path / "a.tif")
    assert caught == []


def test_libtiff_writes_nothing_about_a_damaged_file_itself(tmp_path, capfd):
    """Its own line would stand before ours."""
    file = tmp_path / "damaged.tif"
    Image.new("RGB", (64, 48)).save(file, compression="tiff_adobe_deflate")
    content = bytearray(file.read_bytes())
    content[12:15] = b"\x00\xff\x55"  # in the compressed strip
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged image"):
        read_photo(file)
    assert capfd.readouterr().err == ""
