"""Reading images: every kind of file comes out as 8-bit RGB, upright, or as one clear error.

Sizes are (width, height) in pixels as the image is displayed, that is after its EXIF rotation. A photo is an array
``(H, W, 3)`` of uint8, red, green and blue.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from focaldet.checks import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
"""File names that are taken for images."""

MAX_PIXELS = 80_000_000
"""Larger images are refused from their header, before anything is decoded (240 MB as RGB)."""

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Pillow's readers that are tried: only plain pixel formats, none that starts another program (EPS)."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright."""


class ImageHeader(NamedTuple):
    """What the first bytes of an image file say.

    Args:
        width: as displayed.
        height: as displayed.
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
    """Silence Pillow's own warning about large images: the limit here is ours, and it is an error.

    Warning filters belong to the whole process: who starts threads that read images enters this around all of them too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


Source = Path | BytesIO
"""An image file, or the bytes of one; errors call bytes ``image``."""


def _problem(source: Source, error: Exception) -> InputError:
    path = source if isinstance(source, Path) else "image"
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such image file")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return InputError(f"{path}: more than {MAX_PIXELS:,} pixels; scale it down or cut it into tiles")
    if isinstance(error, UnidentifiedImageError):
        if (source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes) == 0:
            return InputError(f"{path}: the file is empty; fetch it again or remove it")
        return InputError(f"{path}: not an image that can be read ({', '.join(_FORMATS)}); convert or remove it")
    return InputError(f"{path}: damaged image ({' '.join(str(error).split()) or type(error).__name__}); fetch it again")


def _open(source: Source) -> Image.Image:
    with no_size_warnings():
        image = Image.open(source, formats=_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise Image.DecompressionBombError
    return image


def _orientation(image: Image.Image) -> int:
    # Pillow decodes a whole PNG to look for an EXIF block behind the pixels; one in front of them is known already.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in _TRANSPOSE else 1


def read_header(source: Source) -> ImageHeader:
    """Size and orientation of an image, without decoding it.

    Raises:
        InputError: not an image, or more than ``MAX_PIXELS``.
    """
    try:
        with _open(source) as image:
            orientation = _orientation(image)
            width, height = image.size[::-1] if orientation >= 5 else image.size
            return ImageHeader(width, height, orientation, image.format or "")
    except Exception as error:  # Pillow's readers raise every type there is on damaged files
        raise _problem(source, error) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode: 16 bits scaled, transparency on white. ValueError for floating-point pixels."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16-bit grey: the whole range is scaled, 65535 becomes 255; Pillow's own conversion would clip at 255. Pillow's
        # 32-bit mode is what 16-bit files of some kinds come as.
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.clip(np.round(values / 257), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # The colour under a transparent pixel is arbitrary; it is seen on white, as a page shows it.
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_photo(source: Source, *, max_side: int | None = None) -> NDArray[np.uint8]:
    """An image file as a photo ``(H, W, 3)``, upright.

    Grey, palette and CMYK are converted, 16 bits are scaled to 8, transparency is laid on white.

    Args:
        max_side: scale the image down (antialiased, never up) so that its longer side has at most this many pixels.

    Raises:
        InputError: missing, not an image, damaged or truncated, or more than ``MAX_PIXELS``.
    """
    try:
        with _open(source) as opened:
            orientation = _orientation(opened)
            width, height = opened.size
            target = fitted_size(width, height, max_side) if max_side and max(width, height) > max_side else None
            if target:
                opened.draft(None, target)  # JPEG: decode at a half, a quarter or an eighth, never below the target
            image = to_rgb(opened)
            if target:
                image = image.resize(target, Image.Resampling.BILINEAR)
            if orientation != 1:
                image = image.transpose(_TRANSPOSE[orientation])
            return np.array(image)
    except Exception as error:  # Pillow's readers raise every type there is on damaged files
        raise _problem(source, error) from None


def as_photo(image: str | Path | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photo ``(H, W, 3)`` of what a person may have: a file, a PIL image, or such an array already.

    A file is turned upright by its EXIF orientation; a PIL image is taken as its pixels lie.

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
    """(width, height) of an image whose longer side has been scaled to ``size``.

    >>> fitted_size(640, 480, 320)
    (320, 240)
    """
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def upright_boxes(
    boxes_xyxy: NDArray[np.float64], stored_size: tuple[int, int], orientation: int
) -> NDArray[np.float64]:
    """Boxes drawn on the stored pixels, moved to where the displayed image shows them.

    Args:
        boxes_xyxy: ``(N, 4)``, pixels as stored.
        stored_size: (width, height) as stored.
        orientation: EXIF orientation 1 to 8.

    >>> upright_boxes(np.array([[0.0, 0.0, 10.0, 5.0]]), (40, 20), 6)  # a quarter turn clockwise
    array([[15.,  0., 20., 10.]])
    """
    width, height = stored_size
    x1, y1, x2, y2 = boxes_xyxy.T
    corners = {
        1: (x1, y1, x2, y2),
        2: (width - x2, y1, width - x1, y2),
        3: (width - x2, height - y2, width - x1, height - y1),
        4: (x1, height - y2, x2, height - y1),
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }[orientation]
    return np.stack(corners, axis=1)
