import numpy as np
import pytest
import torch
from PIL import Image

from focaldet.checks import InputError
from focaldet.data.images import decode_jpeg, read_image
from focaldet.photos.images import as_photo, fitted_size, read_header, read_photo
from focaldet.photos.limits import MAX_PIXELS
from focaldet.photos.orientation import upright_boxes

from .builders import png_header, write_photo


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_rgb_comes_out_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


def test_grey_fills_all_three_channels(tmp_path):
    Image.new("L", (4, 3), 77).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [77]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65279, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert read_image(tmp_path / name)[0].tolist() == [[0, 1, 128, 254, 255]]


def test_cmyk_is_converted(tmp_path):
    # No ink at all is white, full cyan has no red: the inverted values of Adobe's JPEGs would show here.
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(tmp_path / "white.jpg", quality=95)
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=95)
    assert read_image(tmp_path / "white.jpg").float().mean() > 250
    red, green, blue = read_image(tmp_path / "cyan.jpg").float().mean((1, 2)).tolist()
    assert red < 5
    assert green > 250
    assert blue > 250


def test_palette_is_converted(tmp_path):
    Image.new("RGB", (4, 4), (200, 30, 60)).quantize(4).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == [200, 30, 60]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    Image.new(mode, (4, 4), (10, 0) if mode == "LA" else (10, 10, 10, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [255]


def test_float_pixels_are_refused_with_a_remedy(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif.*floating-point.*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_and_boxes_follow(tmp_path, orientation):
    # A white rectangle on black: where the reader shows it is where the box must be.
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:15, 8:32] = 255
    Image.fromarray(stored).save(tmp_path / "a.png", exif=_exif(orientation))
    image = read_image(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    assert (header.height, header.width) == tuple(image.shape[1:]) == ((60, 40) if orientation >= 5 else (40, 60))
    assert header.stored_size == (60, 40)
    assert header.orientation == orientation
    rows, columns = np.nonzero(image[0].numpy())
    shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box = upright_boxes(np.array([[8.0, 5.0, 32.0, 15.0]]), header.stored_size, orientation)
    assert box.tolist() == [shown]


def test_max_side_scales_down_and_never_up(tmp_path):
    write_photo(tmp_path / "a.jpg", (64, 48))
    assert read_image(tmp_path / "a.jpg", max_side=32).shape == (3, 24, 32)
    assert read_image(tmp_path / "a.jpg", max_side=100).shape == (3, 48, 64)


def test_max_side_of_a_rotated_photo_keeps_its_shape(tmp_path):
    write_photo(tmp_path / "a.jpg", (64, 48), exif=_exif(6))
    assert read_image(tmp_path / "a.jpg", max_side=32).shape == (3, 32, 24)


def test_a_missing_image_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg: no such image file") as caught:
        read_image(tmp_path / "gone.jpg")
    assert "\n" not in str(caught.value)


def test_a_text_file_is_not_an_image(tmp_path):
    (tmp_path / "a.jpg").write_text("this is no photo\n" * 50)
    for read in (read_image, read_header):
        with pytest.raises(InputError, match=r"a\.jpg: not an image that can be read.*JPEG.*remove it"):
            read(tmp_path / "a.jpg")


def test_an_empty_file_is_told_as_such(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"a\.jpg: the file is empty"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_is_damaged_though_its_header_is_fine(tmp_path, suffix):
    path = write_photo(tmp_path / f"a.{suffix}", (200, 200))
    path.write_bytes(path.read_bytes()[:2000])
    assert read_header(path)[:2] == (200, 200)
    with pytest.raises(InputError, match=rf"a\.{suffix}: damaged image"):
        read_image(path)


@pytest.mark.parametrize("side", [30_000, 10_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, side):
    # 10,000 squared is where Pillow only warns: the limit is ours. (Warnings are errors in these tests.)
    path = png_header(tmp_path / "bomb.png", side, side)
    for read in (read_image, read_header):
        with pytest.raises(InputError, match=rf"bomb\.png: more than {MAX_PIXELS:,} pixels"):
            read(path)


def test_a_postscript_file_under_another_name_is_not_run(tmp_path):
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="not an image that can be read"):
        read_image(tmp_path / "a.jpg")


def test_fitted_size_never_vanishes():
    assert fitted_size(1000, 1, 100) == (100, 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"expected \(H, W, 3\) uint8 RGB, got \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((3, 4, 4), np.uint8), r"got \(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (Image.new("F", (4, 4)), "floating-point"),
    ],
)
def test_what_is_no_photo_is_named(image, message):
    with pytest.raises(InputError, match=message):
        as_photo(image)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"mode": "L"}, {"mode": "CMYK"}])
def test_training_reads_jpeg_files_to_the_bit_as_everything_else(options, orientation, tmp_path, monkeypatch):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8))
    options = dict(options)
    photo.convert(options.pop("mode", "RGB")).save(tmp_path / "a.jpg", exif=_exif(orientation), **options)
    read = read_image(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read.permute(1, 2, 0).numpy(), read_photo(tmp_path / "a.jpg"))
    monkeypatch.setattr("focaldet.data.images._decode_jpeg", None)  # a torchvision that has given it up
    assert torch.equal(read_image(tmp_path / "a.jpg"), read)


def test_a_damaged_jpeg_file_has_pillows_verdict(tmp_path):
    whole = write_photo(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    assert decode_jpeg(whole) is not None
    assert decode_jpeg(whole[: len(whole) // 2]) is None
    with pytest.raises(InputError, match="truncated"):
        read_image(tmp_path / "a.jpg")
