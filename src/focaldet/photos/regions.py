"""Parts of a photo at its own resolution, without keeping the whole of it in memory.

How much is decoded depends on the file. Tiled or uncompressed TIFF: only the part. Other TIFF, PNG, and JPEG above
``MAX_PIXELS``: everything once, from top to bottom, into a temporary file. Other formats and small photos: everything
at once. Positions and sizes refer to the photo as displayed, that is after its EXIF rotation.
"""

import importlib.util
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from focaldet.checks import InputError
from focaldet.photos.decoded_file import DecodedFile, strips_of
from focaldet.photos.depth import FULL
from focaldet.photos.images import (
    GLANCE,
    ImageHeader,
    as_photo,
    decode_photo,
    fitted_size,
    no_size_warnings,
    read_header,
    read_photo,
    white_of_part,
)
from focaldet.photos.limits import MAX_PIXELS, MAX_REGION_PIXELS
from focaldet.photos.orientation import turned, upright_boxes
from focaldet.photos.png_strips import png_strips, read_png_header
from focaldet.photos.tiff_blocks import TiffBlocks
from focaldet.photos.tiling import FILL, Window

IN_MEMORY = 16_000_000
"""Largest number of pixels of a photo that is decoded whole and kept (48 MB)."""

MAX_SIDE = 1_000_000
"""Longest side in pixels: a strip of a few rows must fit in memory."""

_AT_ONCE = 4_000_000
"""Number of pixels decoded at a time when reading all of a large photo."""

_MAX_TOGETHER = 16_000_000
"""Number of pixels in TIFF blocks that are decoded together."""

_BACK = {6: 8, 8: 6}
"""EXIF orientation -> the orientation that undoes it, if it differs."""


class _Stored(Protocol):
    """Pixels as stored, before the rotation."""

    @property
    def problem(self) -> str:
        """A description of what could not be read so far, or ""."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """A part of the pixels."""

    def close(self) -> None:
        """Release memory and files."""


class PhotoRegions:
    """A photo that is read in parts. Several threads may read at the same time.

    Args:
        path: its file.
        header: its size and rotation.
        stored: its pixels; already upright if ``header`` says so.
    """

    def __init__(self, path: Path, header: ImageHeader, stored: _Stored) -> None:
        self.path, self._header, self._stored = path, header, stored

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as displayed."""
        return self._header.width, self._header.height

    @property
    def problem(self) -> str:
        """A sentence about parts of the file that could not be read so far and are grey; "" if there are none."""
        return f"{self.path}: {self._stored.problem}" if self._stored.problem else ""

    def read(self, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """A part of the photo, ``(height, width, 3)`` RGB.

        Raises:
            InputError: the part is empty or not inside the photo, or the file cannot be read any more.
        """
        if min(left, top) < 0 or min(width, height) < 1 or left + width > self.size[0] or top + height > self.size[1]:
            raise InputError(
                f"{self.path}: {width:,} × {height:,} px at ({left:,}, {top:,}) are not inside its "
                f"{self.size[0]:,} × {self.size[1]:,} px"
            )
        orientation = self._header.orientation
        if orientation == 1:
            return self._stored.read(Window(left, top, width, height))
        box = np.array([[left, top, left + width, top + height]], np.float64)
        x1, y1, x2, y2 = upright_boxes(box, self.size, _BACK.get(orientation, orientation))[0].astype(int).tolist()
        return turned(self._stored.read(Window(x1, y1, x2 - x1, y2 - y1)), orientation)

    def reduced(self, longest: int) -> NDArray[np.uint8]:
        """The whole photo, scaled down so that its longer side has at most this many pixels; never up.

        Raises:
            InputError: it would have more than ``MAX_PIXELS``, or the file cannot be read any more.
        """
        width, height = self.size
        target = fitted_size(width, height, longest) if longest < max(width, height) else (width, height)
        if target[0] * target[1] > MAX_PIXELS:
            raise InputError(f"{self.path}: more than {MAX_PIXELS:,} pixels at a longer side of {longest:,} px")
        if self._header.format in ("JPEG", "MPO") and width * height > IN_MEMORY:
            with no_size_warnings():
                return decode_photo(self.path, max_side=longest, most=MAX_REGION_PIXELS).photo
        whole = max(1, max(width, height) // max(target))  # first by whole numbers, strip by strip
        rows = whole * max(1, _AT_ONCE // (whole * width))
        strips = (self.read(0, top, width, min(rows, height - top)) for top in range(0, height, rows))
        image = Image.fromarray(np.concatenate([np.asarray(Image.fromarray(s).reduce(whole)) for s in strips]))
        box = (0.0, 0.0, width / whole, height / whole)
        return np.array(image.resize(target, Image.Resampling.BILINEAR, box=box))

    def close(self) -> None:
        """Release the photo's memory and files."""
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_regions(path: Path, *, keep: Path | None = None) -> PhotoRegions:
    """Open a photo to read parts of it. The readable rest of a damaged large photo is used.

    Args:
        path: its file.
        keep: folder for decoded pixels that are used again when the photo is opened again; ``None``: a temporary file.

    Raises:
        NoRoomError: the disk has no room for decoded pixels.
        InputError: as ``read_photo``; or the format cannot be read in parts and the photo has more than ``MAX_PIXELS``.
    """
    header = read_header(path, most=MAX_REGION_PIXELS)
    if max(header.width, header.height) > MAX_SIDE:
        raise InputError(f"{path}: a side of more than {MAX_SIDE:,} px; cut it into several photos")
    if header.width * header.height <= IN_MEMORY:
        photo = read_photo(path)
        return PhotoRegions(path, _upright(header), _InMemory(photo))
    with no_size_warnings():
        stored = _large(path, header, keep)
    if stored is not None:
        return PhotoRegions(path, header, stored)
    read_header(path)  # rejects those above MAX_PIXELS
    decoded = _decoded(path, header.width, header.height, keep, lambda: strips_of(read_photo(path), 1024))
    return PhotoRegions(path, _upright(header), decoded)


def regions_of(image: str | Path | Image.Image | NDArray[np.uint8]) -> PhotoRegions:
    """Open a photo that is given as a file, a PIL image or an array, see ``as_photo``.

    >>> regions_of(np.zeros((4, 8, 3), np.uint8)).size
    (8, 4)
    """
    if isinstance(image, str | Path):
        return open_regions(Path(image))
    photo = as_photo(image)
    return PhotoRegions(Path("image"), ImageHeader(photo.shape[1], photo.shape[0], 1, ""), _InMemory(photo))


def decode_to_the_end(path: Path) -> tuple[int, str]:
    """Decode all of a photo. Returns its white as in ``Decoded``, and which part of a large one is grey instead.

    Raises:
        InputError: it cannot be used.
    """
    header = read_header(path, most=MAX_REGION_PIXELS)
    if header.width * header.height <= MAX_PIXELS:
        return decode_photo(path, max_side=GLANCE).white, ""  # still to the end, and JPEGs in a third of the time
    with open_regions(path) as photo:
        photo.reduced(GLANCE)
        return FULL, photo.problem


def _upright(header: ImageHeader) -> ImageHeader:
    return header._replace(orientation=1)


def _large(path: Path, header: ImageHeader, keep: Path | None) -> _Stored | None:
    """Pixels of a large photo that need not be decoded whole, or ``None``."""
    width, height = header.stored_size
    if header.format == "TIFF":
        try:
            tiff = _Tiff(path)
        except ValueError:
            return None
        if tiff.direct:
            return tiff
        return _decoded(path, width, height, keep, tiff.strips, lambda: tiff.problem)
    if header.format == "PNG":
        png = read_png_header(path)
        if png.interlaced:
            return None
        return _decoded(path, width, height, keep, lambda: _rows_of_png(path, max(1, _AT_ONCE // width), png.bits))
    if header.format in ("JPEG", "MPO") and width * height > MAX_PIXELS:
        _check_jpeg(path)
        return _decoded(path, width, height, keep, None)
    return None


def _decoded(
    path: Path,
    width: int,
    height: int,
    keep: Path | None,
    strips: Callable[[], Iterator[NDArray[np.uint8]]] | None,
    problem: Callable[[], str] = str,
) -> DecodedFile:
    """The pixels of a photo in a file.

    Args:
        path, width, height, keep: see ``DecodedFile``.
        strips: decodes its rows from the top; ``None``: libvips does.
        problem: says after decoding which part is grey.
    """
    decoded = DecodedFile(path, width, height, keep)
    if decoded.ready:
        return decoded
    try:
        if strips is None:
            decoded.take_jpeg(FILL)
        else:
            decoded.write(_until_damaged(strips()), FILL, problem)
    except BaseException:
        decoded.discard()
        raise
    return decoded


def _rows_of_png(path: Path, rows: int, bits: int) -> Iterator[NDArray[np.uint8]]:
    white = _joint_white(png_strips(path, rows)) if bits == 16 else FULL
    for part in png_strips(path, rows):
        yield decode_photo(part, white=white).photo


def _until_damaged(strips: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    try:
        yield from strips
    except ValueError:  # missing rows are filled and reported
        return


def _joint_white(parts: Iterator[BytesIO]) -> int:
    """White of a 16-bit photo, from all its readable parts."""
    white = 0
    try:
        for part in parts:
            white = max(white, white_of_part(part))
    except ValueError:
        pass  # the rest cannot be read later either
    return white or FULL


def _check_jpeg(path: Path) -> None:
    """Raise InputError unless a JPEG file can be decoded row by row here."""
    with JpegImagePlugin.JpegImageFile(path) as image:
        kind = "progressive" if "progressive" in image.info else "CMYK" if image.mode == "CMYK" else ""
    large = f"{path}: a {kind + ' ' if kind else ''}JPEG file of more than {MAX_PIXELS:,} pixels"
    if kind:
        raise InputError(f"{large} can only be decoded as a whole; save it as ordinary JPEG, or as TIFF in tiles")
    if importlib.util.find_spec("pyvips") is None:
        raise InputError(f"{large}; pip install 'focaldet[large]' reads it")


class _InMemory:
    """A photo that has been decoded whole."""

    problem = ""

    def __init__(self, photo: NDArray[np.uint8]) -> None:
        self._photo = photo

    def read(self, window: Window) -> NDArray[np.uint8]:
        left, top, width, height = window
        return self._photo[top : top + height, left : left + width].copy()

    def close(self) -> None:
        self._photo = self._photo[:0]


class _Tiff:
    """A TIFF file whose parts are decoded on reading.

    Raises:
        ValueError: its blocks cannot be read individually.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks = TiffBlocks(path)
        self.direct = self._blocks.direct
        self._lost: set[Window] = set()
        self._lock = Lock()
        self._white = self._find_white() if self._blocks.bits > 8 else FULL

    @property
    def problem(self) -> str:
        with self._lock:
            lost = sorted(self._lost, key=lambda window: (window.top, window.left))
        if not lost:
            return ""
        left, top, width, height = lost[0]
        others = f" and {len(lost) - 1:,} other parts" if len(lost) > 1 else ""
        return f"{width:,} × {height:,} px at ({left:,}, {top:,}){others} cannot be read; they are grey"

    def read(self, window: Window) -> NDArray[np.uint8]:
        out = np.full((window.height, window.width, 3), FILL, np.uint8)
        pieces = self._blocks.pieces(window)
        together = sum(piece.width * piece.height for piece in pieces) <= _MAX_TOGETHER
        try:
            if not together or not self._read_into(out, window, window):
                for piece in pieces:
                    if not self._read_into(out, window, piece):
                        with self._lock:
                            self._lost.add(piece)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        return out

    def strips(self) -> Iterator[NDArray[np.uint8]]:
        """All rows from the top, in strips of about the file's own strip size."""
        blocks = self._blocks
        rows = blocks.block_height * max(1, _AT_ONCE // (blocks.width * blocks.block_height))
        for top in range(0, blocks.height, rows):
            yield self.read(Window(0, top, blocks.width, min(rows, blocks.height - top)))

    def close(self) -> None:
        """Nothing to release."""

    def _read_into(self, out: NDArray[np.uint8], window: Window, piece: Window) -> bool:
        """Copy a piece's share of a window into place; return whether it could be read."""
        try:
            part, held = self._blocks.part(piece)
            photo = decode_photo(part, white=self._white).photo
        except ValueError:
            return False
        inside = piece if piece != window else held
        left, top = max(window.left, inside.left), max(window.top, inside.top)
        right = min(window.left + window.width, inside.left + inside.width)
        bottom = min(window.top + window.height, inside.top + inside.height)
        if left < right and top < bottom:
            seen = photo[top - held.top : bottom - held.top, left - held.left : right - held.left]
            out[top - window.top : bottom - window.top, left - window.left : right - window.left] = seen
        return True

    def _find_white(self) -> int:
        blocks, white = self._blocks, 0
        for piece in blocks.pieces(Window(0, 0, blocks.width, blocks.height)):
            try:
                white = max(white, white_of_part(blocks.part(piece)[0]))
            except ValueError:
                continue  # grey when it is read
        return white or FULL
