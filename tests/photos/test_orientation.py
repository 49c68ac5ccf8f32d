"""Photos become upright in every format, whether Pillow (TIFF) or focaldet rotates them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.photos.images import IMAGE_SUFFIXES, read_header, read_photo
from focaldet.photos.orientation import upright_boxes

STORED = (64, 40)
BOX = (8, 4, 32, 16)
"""A white rectangle on black as the pixels are stored; its corners lie on JPEG's blocks."""

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

FORMATS = [
    (".jpg", {}),
    (".png", {}),
    (".webp", {"lossless": True}),
    (".tif", {}),
    (".tif", {"compression": "tiff_lzw"}),
]
if ".avif" in IMAGE_SUFFIXES:
    FORMATS.append((".avif", {"quality": 100}))


def stored_picture() -> Image.Image:
    pixels = np.zeros((STORED[1], STORED[0], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return Image.fromarray(pixels)


def shown(file: Path, **options: int) -> tuple[list[int], tuple[int, int]]:
    """Where the white rectangle is, and (width, height) of the photo."""
    photo = read_photo(file, **options)
    rows, columns = np.nonzero(photo[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], (photo.shape[1], photo.shape[0])


@pytest.mark.parametrize(("suffix", "options"), FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_of_any_format_is_turned_once_and_its_boxes_with_it(tmp_path, suffix, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a{suffix}"
    stored_picture().save(file, exif=exif, **options)
    header = read_header(file)
    place, size = shown(file)
    assert size == (header.width, header.height) == (STORED if orientation < 5 else STORED[::-1])
    assert (header.orientation, header.stored_size) == (orientation, STORED)
    assert upright_boxes(np.array([BOX], float), STORED, orientation).tolist() == [place]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_a_turned_photo_is_scaled_down_in_its_own_shape(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored_picture().save(tmp_path / f"a{suffix}", exif=exif)
    place, size = shown(tmp_path / f"a{suffix}", max_side=32)
    assert size == (20, 32)
    assert place == [12, 4, 18, 16]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_an_orientation_that_xmp_alone_states_is_left_alone(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    if suffix == ".png":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        stored_picture().save(file, pnginfo=text)
    elif suffix == ".tif":
        stored_picture().save(file, tiffinfo={700: XMP})
    elif suffix == ".webp":
        stored_picture().save(file, xmp=XMP, lossless=True)
    else:
        marker = b"http://ns.adobe.com/xap/1.0/\0" + XMP
        stored_picture().save(file)
        whole = file.read_bytes()
        file.write_bytes(whole[:2] + b"\xff\xe1" + (len(marker) + 2).to_bytes(2) + marker + whole[2:])
    assert b"Orientation" in file.read_bytes()
    assert read_header(file)[:3] == (*STORED, 1)
    assert shown(file) == (list(BOX), STORED)
