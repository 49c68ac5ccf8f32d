"""16-bit files from cameras that use fewer bits have the right brightness, the same wherever they are read."""

import numpy as np
import pytest
from PIL import Image

from focaldet.photos.depth import depth_note
from focaldet.photos.images import decode_photo, read_photo

from .pictures import png_16, tiff_16

RAMP = np.array([[0, 273, 2048, 3000, 4095]], np.uint16)
"""12 bits; as 16 bits all of it would be darker than 16 of 255."""

SCALED = [0, 17, 128, 187, 255]


def grey(file):
    photo, white = decode_photo(file)
    assert (photo == photo[..., :1]).all()
    return photo[0, :, 0].tolist(), white


@pytest.mark.parametrize("write", [png_16, tiff_16])
@pytest.mark.parametrize(("most", "white"), [(200, 255), (256, 1023), (3000, 4095), (9000, 16383), (16384, 65535)])
def test_white_is_the_most_of_the_fewest_bits_that_hold_the_photo(tmp_path, write, most, white):
    values, found = grey(write(tmp_path / "a", np.array([[0, most]], np.uint16)))
    assert found == white
    assert values == [0, round(most / white * 255)]


def test_a_photo_of_all_16_bits_is_as_it_was(tmp_path):
    values = np.array([[0, 257, 32896, 65279, 65535]], np.uint16)
    for write in (png_16, tiff_16):
        assert grey(write(tmp_path / "a", values)) == ([0, 1, 128, 254, 255], 65535)


def test_a_black_photo_stays_black_and_nothing_is_said(tmp_path):
    found = grey(png_16(tmp_path / "a.png", np.zeros((2, 2), np.uint16)))
    assert found == ([0, 0], 65535)
    assert depth_note([found[1]]) == ""


def test_significant_bits_of_a_png_say_what_is_white(tmp_path):
    dark = np.array([[0, 100, 500]], np.uint16)
    assert grey(png_16(tmp_path / "a.png", dark, significant=12)) == ([0, 6, 31], 4095)
    assert grey(png_16(tmp_path / "b.png", dark, significant=16)) == ([0, 0, 2], 65535)


def test_significant_bits_that_were_scaled_up_as_the_standard_asks_are_left(tmp_path):
    file = png_16(tmp_path / "a.png", np.array([[0, 8000, 15000]], np.uint16), significant=12)
    assert grey(file) == ([0, 31, 58], 65535)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tag", [281, 341])
def test_the_largest_value_that_a_tiff_states_is_white(tmp_path, order, tag):
    file = tiff_16(tmp_path / "a.tif", np.array([[0, 1000, 2000]], np.uint16), order=order, **{f"t{tag}": 4000})
    assert grey(file) == ([0, 64, 128], 4000)
    wrong = tiff_16(tmp_path / "b.tif", RAMP, order=order, **{f"t{tag}": 255})
    assert grey(wrong) == (SCALED, 4095)


def test_a_statement_that_cannot_be_is_none(tmp_path):
    assert grey(png_16(tmp_path / "a.png", RAMP, significant=200)) == (SCALED, 4095)
    assert grey(tiff_16(tmp_path / "a.tif", RAMP, t281=2**31)) == (SCALED, 4095)


def test_a_pgm_is_as_bright_as_its_own_maximum_says(tmp_path):
    head = f"P5 {RAMP.shape[1]} 1 ".encode()
    (tmp_path / "a.pgm").write_bytes(head + b"4095\n" + RAMP.astype(">u2").tobytes())
    assert grey(tmp_path / "a.pgm") == (SCALED, 65535)
    (tmp_path / "b.pgm").write_bytes(head + b"65535\n" + RAMP.astype(">u2").tobytes())
    assert grey(tmp_path / "b.pgm") == ([0, 1, 8, 12, 16], 65535)


COLOURS = np.random.default_rng(0).integers(0, 4096, (9, 7, 3)).astype(np.uint16)
COLOURS[0, 0] = 4095
EIGHT = np.round(COLOURS.astype(float) / 4095 * 255).astype(np.uint8)


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_12_bits_keep_all_of_them(tmp_path, order):
    for file in (png_16(tmp_path / "a.png", COLOURS), tiff_16(tmp_path / "a.tif", COLOURS, order=order)):
        photo, white = decode_photo(file)
        assert white == 4095
        assert np.array_equal(photo, EIGHT)


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_and_grey_of_a_compressed_tiff_keep_all_bits(tmp_path, order):
    photo, white = decode_photo(tiff_16(tmp_path / "a.tif", COLOURS, order=order, t259=8))
    assert white == 4095
    assert np.array_equal(photo, EIGHT)
    assert grey(tiff_16(tmp_path / "b.tif", RAMP, order=order, t259=8)) == (SCALED, 4095)


def test_colours_of_8_bits_in_16_are_found_in_the_low_bytes(tmp_path):
    photo, white = decode_photo(png_16(tmp_path / "a.png", COLOURS >> 4))
    assert white == 255
    assert np.array_equal(photo, (COLOURS >> 4).astype(np.uint8))
    photo, white = decode_photo(png_16(tmp_path / "b.png", 0 * COLOURS))
    assert (white, photo.max()) == (65535, 0)


def test_transparency_beside_12_bits_is_laid_on_white(tmp_path):
    opaque = np.full((9, 7, 1), 65535, np.uint16)
    photo, white = decode_photo(png_16(tmp_path / "a.png", np.concatenate([COLOURS, opaque], axis=2)))
    assert (white, np.array_equal(photo, EIGHT)) == (4095, True)
    photo = read_photo(png_16(tmp_path / "b.png", np.concatenate([COLOURS, 0 * opaque], axis=2)))
    assert photo.min() == 255


def test_colours_of_16_bits_are_as_they_were(tmp_path):
    colours = COLOURS * np.uint16(16)
    photo, white = decode_photo(png_16(tmp_path / "a.png", colours))
    assert white == 65535
    assert np.array_equal(photo, (colours >> 8).astype(np.uint8))


def test_a_photo_scaled_down_while_it_is_read_has_the_same_white(tmp_path):
    values = np.full((40, 40), 900, np.uint16)
    values[3, 3] = 4000  # gone once it is scaled down
    file = png_16(tmp_path / "a.png", values)
    assert decode_photo(file, max_side=10).white == decode_photo(file).white == 4095


def test_32_bits_are_scaled_too(tmp_path):
    Image.fromarray(np.array([[0, 2**23, 2**24 - 1]], np.int32)).save(tmp_path / "a.tif")
    assert grey(tmp_path / "a.tif")[0] == [0, 128, 255]
