"""Read images: every kind of file becomes upright 8-bit RGB, or one clear error.

Sizes are (width, height) in pixels of the displayed image, that is after its EXIF rotation. A photo is an array
``(H, W, 3)`` of uint8, red, green and blue.
"""

import functools
import importlib
import importlib.util
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

import focaldet.photos.libtiff  # noqa: F401  (it is silent from here on)
from focaldet.checks import InputError
from focaldet.photos.depth import (
    FULL,
    colours_of_16_bits,
    grey_of_16_bits,
    has_colours_of_16_bits,
    stated_whites,
)
from focaldet.photos.limits import MAX_PIXELS
from focaldet.photos.orientation import TRANSPOSE, turned
from focaldet.photos.scans import MAX_SCANS, too_many_scans

SUFFIX_FORMATS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ("JPEG", "MPO")),
    ".png": ("PNG",),
    ".bmp": ("BMP",),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    ".webp": ("WEBP",),
    ".gif": ("GIF",),
    **dict.fromkeys((".ppm", ".pgm"), ("PPM",)),
    ".avif": ("AVIF",),
    **dict.fromkeys((".heic", ".heif"), ("HEIF",)),
}
"""File name suffix -> the formats that it stands for, by Pillow's names."""

REMEDIES = {"AVIF": "pip install 'pillow>=11.3'", "HEIF": "pip install pillow-heif"}
"""Formats that an installation may be unable to read, and how to fix it."""

_MISSING = {
    name
    for name, module in (("AVIF", "PIL._avif"), ("HEIF", "pillow_heif"))
    if importlib.util.find_spec(module) is None
}

IMAGE_SUFFIXES = frozenset(suffix for suffix, formats in SUFFIX_FORMATS.items() if _MISSING.isdisjoint(formats))
"""Suffixes of files that count as images, limited to formats that this installation can read."""

_LARGE: dict[bytes, Callable[[BinaryIO], Image.Image]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG": PngImagePlugin.PngImageFile,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
}
"""First bytes of a file -> its reader, for files above Pillow's own limit, which only ``Image.open`` enforces."""

GLANCE = 64
"""Longer side in pixels of images that are decoded only to check them: JPEGs then take a third of the time."""


class ImageHeader(NamedTuple):
    """Contents of an image file's header.

    Args:
        width: width of the displayed image.
        height: height of the displayed image.
        orientation: EXIF orientation, 1 (upright) to 8; 5 to 8 exchange width and height.
        format: Pillow's name of the file format, for example ``"JPEG"``.
    """

    width: int
    height: int
    orientation: int
    format: str

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the pixels in the file, before the rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@contextmanager
def no_size_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about large images, for which we raise an error at our own limit, and about damaged
    tags, since only the pixels decide whether a file can be used.

    Warning filters are global to the process: code that reads images in threads must enter this around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


Source = Path | BytesIO
"""An image file, or its bytes; errors refer to it as ``image``."""


def _problem(source: Source, error: Exception) -> InputError:
    path = source if isinstance(source, Path) else "image"
    if isinstance(error, InputError):
        return error
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such image file")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return InputError(f"{path}: more than {MAX_PIXELS:,} pixels; work on windows of it (--tile), or scale it down")
    if isinstance(error, UnidentifiedImageError):
        return InputError(f"{path}: {_unidentified(source)}")
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"{path}: cannot be read ({error.strerror})")
    return InputError(f"{path}: damaged image ({' '.join(str(error).split()) or type(error).__name__}); fetch it again")


def _unidentified(source: Source) -> str:
    """Why no reader accepts a file, judged by its first bytes."""
    with _bytes(source) as file:
        head = file.read(12)
    if not head:
        return "the file is empty; fetch it again or remove it"
    if head[4:8] == b"ftyp":
        name = "AVIF" if head[8:11] == b"avi" else "HEIF"
        if name in _MISSING:
            return f"{name} cannot be read here; {REMEDIES[name]}, or convert it"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "a TIFF file with pixels of a kind that cannot be read; save it with 8 or 16 bits, grey or RGB"
    return f"not an image that can be read ({', '.join(_formats())}); convert or remove it"


@functools.cache
def _formats() -> tuple[str, ...]:
    """Allowed readers of Pillow: plain pixel formats only, none that starts another program (EPS)."""
    if "HEIF" not in _MISSING:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(dict.fromkeys(formats[0] for formats in SUFFIX_FORMATS.values() if _MISSING.isdisjoint(formats)))


def _bytes(source: Source) -> BinaryIO:
    return source.open("rb") if isinstance(source, Path) else BytesIO(source.getbuffer())


def _open(source: Source, most: int = MAX_PIXELS) -> Image.Image:
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):  # reading a FIFO would wait forever
        raise InputError(f"{source}: not a regular file; give the photo's own file")
    image = Image.open(source, formats=_formats()) if most <= MAX_PIXELS else _open_large(source)
    if image.width * image.height > most:
        image.close()
        if most > MAX_PIXELS:
            path = source if isinstance(source, Path) else "image"
            raise InputError(f"{path}: more than {most:,} pixels; cut it into several photos")
        raise Image.DecompressionBombError
    # Without EXIF, Pillow uses the orientation of XMP; browsers and other readers do not.
    for key in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)
    return image


def _open_large(source: Source) -> Image.Image:
    with _bytes(source) as file:
        head = file.read(4)
    for begin, reader in _LARGE.items():
        if head.startswith(begin):
            return reader(source)  # type: ignore[arg-type]
    return Image.open(source, formats=_formats())


def _orientation(image: Image.Image) -> int:
    # Pillow would decode a whole PNG to find an EXIF block after the pixels; a block before them is already known.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in TRANSPOSE else 1


def _turned_by_pillow(image: Image.Image) -> bool:
    """Whether Pillow itself rotates the pixels when decoding; then its size is the displayed size."""
    return image.format == "TIFF"  # in all supported versions of Pillow: 11.0 to 13.0


def _check_pixels(image: Image.Image, source: Source) -> None:
    if image.mode == "F":
        path = source if isinstance(source, Path) else "image"
        raise InputError(f"{path}: floating-point pixels, whose white is not known; save it with 8 or 16 bits")


def read_header(source: Source, *, most: int = MAX_PIXELS) -> ImageHeader:
    """Size and orientation of an image, without decoding it.

    Args:
        most: largest number of pixels; ``MAX_REGION_PIXELS`` if only parts will be read.

    Raises:
        InputError: not an image, floating-point pixels, or more pixels than ``most``.
    """
    try:
        with no_size_warnings(), _open(source, most) as image:
            _check_pixels(image, source)
            orientation = _orientation(image)
            exchanged = orientation >= 5 and not _turned_by_pillow(image)
            width, height = image.size[::-1] if exchanged else image.size
            return ImageHeader(width, height, orientation, image.format or "")
    except Exception as error:  # Pillow's readers raise every type there is on damaged files
        raise _problem(source, error) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB: scale 16 bits, put transparency on white. ValueError for floating-point pixels."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose white is not known; give 8 or 16 bits")
    if image.mode.startswith("I"):
        return grey_of_16_bits(image)[0].convert("RGB")
    if image.has_transparency_data:
        # The colour of a transparent pixel is arbitrary; it becomes white, as on a web page.
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


JpegDecoder = Callable[[bytes], NDArray[np.uint8] | None]
"""Decodes the bytes of a JPEG file to a photo as stored; ``None`` leaves it to Pillow."""


class Decoded(NamedTuple):
    """A photo and the conversion of its colours.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB, upright.
        white: for a file with 16 bits per channel, the value that became 255 (``photos.depth``), else 65,535.
    """

    photo: NDArray[np.uint8]
    white: int


def decode_photo(
    source: Source,
    *,
    max_side: int | None = None,
    white: int | None = None,
    most: int = MAX_PIXELS,
    jpeg: JpegDecoder | None = None,
) -> Decoded:
    """As ``read_photo``, with a report about the colours.

    Args:
        white: for a part of a photo, the white of the whole photo.
        most: largest number of pixels of the file; above ``MAX_PIXELS`` only for JPEG, where ``max_side`` avoids
            decoding them all.
        jpeg: decodes JPEG files that need not be scaled, instead of Pillow.
    """
    try:
        with no_size_warnings(), _open(source, most) as opened:
            _check_pixels(opened, source)
            if opened.format in SUFFIX_FORMATS[".jpg"]:
                _check_scans(source)
            orientation = 1 if _turned_by_pillow(opened) else _orientation(opened)
            width, height = opened.size
            target = fitted_size(width, height, max_side) if max_side and max(width, height) > max_side else None
            if jpeg and not target and opened.format in SUFFIX_FORMATS[".jpg"] and opened.mode in ("L", "RGB"):
                with _bytes(source) as file:
                    photo = jpeg(file.read())
                if photo is not None and photo.shape == (height, width, 3):
                    return Decoded(photo if orientation == 1 else turned(photo, orientation), FULL)
            if target:
                opened.draft(None, target)  # JPEG: decode at a half, a quarter or an eighth, never below the target
            image, white = _eight_bits(opened, source, white)
            image = to_rgb(image)
            if target:
                image = image.resize(target, Image.Resampling.BILINEAR)
            if orientation != 1:
                image = image.transpose(TRANSPOSE[orientation])
            return Decoded(np.array(image), white)
    except Exception as error:  # Pillow's readers raise every type there is on damaged files
        raise _problem(source, error) from None


def _eight_bits(image: Image.Image, source: Source, white: int | None) -> tuple[Image.Image, int]:
    if image.mode.startswith("I"):
        return grey_of_16_bits(image, stated_whites(image, source) if white is None else (white,))
    if has_colours_of_16_bits(image):
        stated = stated_whites(image, source) if white is None else (white,)
        return colours_of_16_bits(image, stated, lambda: _open(source))
    return image, FULL


def white_of_part(source: Source) -> int:
    """White of a part of a photo alone, as in ``Decoded``; 0 if nothing in it is brighter than black.

    The white of a photo is the maximum over its parts.
    """
    try:
        with no_size_warnings(), _open(source) as opened:
            image, white = _eight_bits(opened, source, None)
            pixels = np.asarray(image)
            return white if (pixels if pixels.ndim == 2 else pixels[..., :3]).any() else 0
    except Exception as error:  # Pillow's readers raise every type there is on damaged files
        raise _problem(source, error) from None


def _check_scans(source: Source) -> None:
    if isinstance(source, Path):
        with source.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as jpeg:
            refused = too_many_scans(jpeg)
    else:
        refused = too_many_scans(source.getvalue())
    if refused:
        path = source if isinstance(source, Path) else "image"
        raise InputError(f"{path}: a JPEG file of more than {MAX_SCANS} scans; save it again")


def read_photo(source: Source, *, max_side: int | None = None, jpeg: JpegDecoder | None = None) -> NDArray[np.uint8]:
    """An image file as a photo ``(H, W, 3)``, upright.

    Grey, palette and CMYK are converted, 16 bits are scaled to 8 (``photos.depth``), and transparency becomes white.

    Args:
        max_side: scale the image down (antialiased, never up) so that its longer side has at most this many pixels.
        jpeg: as in ``decode_photo``.

    Raises:
        InputError: missing, not a regular file, not an image, damaged or truncated, floating-point pixels, more than
            ``MAX_PIXELS``, or a JPEG file with more than ``MAX_SCANS``.
    """
    return decode_photo(source, max_side=max_side, jpeg=jpeg).photo


def as_photo(image: str | Path | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert a file, a PIL image or an array to a photo ``(H, W, 3)``.

    A file is rotated upright by its EXIF orientation; a PIL image is used unchanged.

    Raises:
        InputError: as ``read_photo``, or an array of another shape or type.

    >>> as_photo(Image.new("L", (4, 2))).shape
    (2, 4, 3)
    """
    if isinstance(image, str | Path):
        return read_photo(Path(image))
    try:
        array = np.asarray(to_rgb(image) if isinstance(image, Image.Image) else image)
    except ValueError as error:
        raise InputError(f"image: {error}") from error
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(f"image: expected (H, W, 3) uint8 RGB, got {array.shape} {array.dtype}")
    return array


def fitted_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) of an image after scaling its longer side to ``size``.

    >>> fitted_size(640, 480, 320)
    (320, 240)
    """
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
