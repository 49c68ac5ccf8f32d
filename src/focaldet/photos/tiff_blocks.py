"""Single strips and tiles of a TIFF file, without reading the rest of it.

Each strip or tile is coded independently. So those that a part of the photo needs are copied into a small TIFF file
with the tags of the large one. Pillow decodes it to the same pixels as in the whole file.
"""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from focaldet.photos.tiling import Window

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_OF_BLOCKS = {_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES}

_DECODING = {
    *(_BITS, _COMPRESSION, _COLOURS, 266, _SAMPLES, _PLANAR, 292, 293, 317, 320, 338, 339, 347, 529, 530, 531, 532),
    *(280, 281, 332, 333, 340, 341),
}
"""Tags that say how pixels are coded. Orientation is left out: parts are rotated when they are put together."""

_TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u8", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 10: "u8", 11: "f4", 12: "f8"}
_TYPES |= {13: "u4", 16: "u8", 17: "i8", 18: "u8"}
"""Type of a tag's values -> numpy's; fractions are only copied."""

_LONG = 4
_UNCOMPRESSED, _JPEG_OLD, _YCBCR, _SEPARATE = 1, 6, 6, 2
_MAX_VALUES = 2**24
"""Limit for the values of one tag: a photo of a terapixel in tiles of 256."""

_ROWS = 16
"""Rows per piece if pixels are not compressed and can be divided anywhere."""

MAX_BLOCK = 40_000_000
"""Largest number of pixels of a block that is decoded to read a part of it."""


class _Tag(NamedTuple):
    kind: int
    values: int
    data: bytes


class TiffBlocks:
    """The strips or tiles of a file's first page, as a grid.

    Args:
        path: the file.

    Raises:
        ValueError: not a TIFF file, or its blocks cannot be read individually.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._order, self._tags = _read_tags(file)
        self.width, self.height = self._number(_WIDTH), self._number(_HEIGHT)
        compression = self._number(_COMPRESSION, 1)
        self._planes = self._number(_SAMPLES, 1) if self._number(_PLANAR, 1) == _SEPARATE else 1
        self.tiled = _TILE_OFFSETS in self._tags
        if self.tiled:
            self.block_width, self.block_height = self._number(_TILE_WIDTH), self._number(_TILE_HEIGHT)
            offsets, counts = self._values(_TILE_OFFSETS), self._values(_TILE_BYTES)
        else:
            self.block_width = self.width
            self.block_height = min(self.height, self._number(_ROWS_PER_STRIP, 2**32 - 1))
            offsets, counts = self._values(_STRIP_OFFSETS), self._values(_STRIP_BYTES)
        if compression == _JPEG_OLD or min(self.width, self.height, self.block_width, self.block_height) < 1:
            raise ValueError("its blocks cannot be read one by one")
        columns, rows = -(-self.width // self.block_width), -(-self.height // self.block_height)
        if len(offsets) != self._planes * rows * columns or len(counts) != len(offsets):
            raise ValueError("its table of blocks does not fit its size")
        self._offsets = offsets.reshape(self._planes, rows, columns)
        self._counts = counts.reshape(self._planes, rows, columns)
        self._plain = not self.tiled and compression == _UNCOMPRESSED and self._number(_COLOURS, 1) != _YCBCR
        if self._plain:
            self.block_height = min(self.block_height, _ROWS)
        if self.block_width * self.block_height > MAX_BLOCK:
            raise ValueError("its blocks are too large")

    @property
    def direct(self) -> bool:
        """Whether reading a part of the photo decodes only a little more than the part."""
        return self.tiled or self._plain

    @property
    def bits(self) -> int:
        """Largest number of bits per value."""
        return int(self._values(_BITS).max()) if _BITS in self._tags else 1

    def pieces(self, window: Window) -> list[Window]:
        """The smallest windows of whole blocks that cover a window and can be read separately."""
        left, top, width, height = window
        return [
            Window(x, y, min(self.block_width, self.width - x), min(self.block_height, self.height - y))
            for y in range(top - top % self.block_height, top + height, self.block_height)
            for x in range(left - left % self.block_width, left + width, self.block_width)
        ]

    def part(self, window: Window) -> tuple[BytesIO, Window]:
        """A TIFF file of the blocks that contain a window, and their position in the photo.

        Raises:
            ValueError: the file ends before its pixels do.
            OSError: the file cannot be read.
        """
        if self._plain:
            return self._plain_part(window)
        left, top = window.left // self.block_width, window.top // self.block_height
        right = -(-(window.left + window.width) // self.block_width)
        bottom = -(-(window.top + window.height) // self.block_height)
        offsets, counts = (table[:, top:bottom, left:right].ravel().tolist() for table in (self._offsets, self._counts))
        with self.path.open("rb") as file:
            blocks = [_bytes_at(file, at, length) for at, length in zip(offsets, counts, strict=True)]
        held = Window(
            left * self.block_width,
            top * self.block_height,
            (right - left) * self.block_width,
            (bottom - top) * self.block_height,
        )
        if not self.tiled:
            held = held._replace(height=min(held.height, self.height - held.top))
        return self._small_file(held, blocks), held

    def _plain_part(self, window: Window) -> tuple[BytesIO, Window]:
        """As ``part``, for uncompressed pixels: no more than the window."""
        bits = int(self._values(_BITS)[0]) if _BITS in self._tags else 1
        pixel = bits * (1 if self._planes > 1 else self._number(_SAMPLES, 1))
        held = window if pixel % 8 == 0 else window._replace(left=0, width=self.width)
        row, at, length = -(-self.width * pixel // 8), held.left * pixel // 8, -(-held.width * pixel // 8)
        strip = min(self.height, self._number(_ROWS_PER_STRIP, 2**32 - 1))
        y = np.arange(held.top, held.top + held.height)
        starts = self._offsets[:, y // strip, 0] + row * (y % strip) + at
        with self.path.open("rb") as file:
            planes = [b"".join(_bytes_at(file, start, length) for start in plane) for plane in starts.tolist()]
        return self._small_file(held, planes, rows=held.height), held

    def _small_file(self, held: Window, blocks: list[bytes], rows: int = 0) -> BytesIO:
        tags = {tag: value for tag, value in self._tags.items() if tag in _DECODING and value.kind <= 13}
        tags[_WIDTH], tags[_HEIGHT] = self._longs([held.width]), self._longs([held.height])
        # Directly after the header, one after the other.
        starts = self._longs((8 + np.cumsum([0, *map(len, blocks[:-1])])).tolist())
        sizes = self._longs([len(block) for block in blocks])
        if self.tiled:
            tags[_TILE_WIDTH], tags[_TILE_HEIGHT] = self._longs([self.block_width]), self._longs([self.block_height])
            tags[_TILE_OFFSETS], tags[_TILE_BYTES] = starts, sizes
        else:
            tags[_STRIP_OFFSETS], tags[_STRIP_BYTES] = starts, sizes
            tags[_ROWS_PER_STRIP] = self._longs([rows or self.block_height])
        return BytesIO(_file(self._order, tags, blocks))

    def _longs(self, values: list[int]) -> _Tag:
        return _Tag(_LONG, len(values), np.array(values, f"{self._order}u4").tobytes())

    def _values(self, tag: int) -> NDArray[np.int64]:
        if tag not in self._tags:
            raise ValueError(f"it has no tag {tag}")
        value = self._tags[tag]
        return np.frombuffer(value.data, f"{self._order}{_TYPES[value.kind]}").astype(np.int64)

    def _number(self, tag: int, default: int = 0) -> int:
        return int(self._values(tag)[0]) if tag in self._tags and self._tags[tag].values else default


def _bytes_at(file: Any, at: int, length: int) -> bytes:
    file.seek(at)
    data: bytes = file.read(length)
    if len(data) < length or not length:
        raise ValueError("the file ends in the middle of its pixels" if length else "a part of it was never written")
    return data


def _read_tags(file: Any) -> tuple[str, dict[int, _Tag]]:
    """(numpy's sign of the byte order, tag -> value) of the first page, classic TIFF or BigTIFF."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("not a TIFF file")
    big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    start = struct.unpack(f"{order}Q", head[8:16])[0] if big else struct.unpack(f"{order}I", head[4:8])[0]
    entry, number, room = (20, "Q", 8) if big else (12, "I", 4)
    file.seek(start)
    count = struct.unpack(f"{order}{'Q' if big else 'H'}", _bytes_at(file, start, 8 if big else 2))[0]
    entries = _bytes_at(file, start + (8 if big else 2), entry * min(count, 2**16))
    tags: dict[int, _Tag] = {}
    for at in range(0, len(entries), entry):
        tag, kind, values = struct.unpack(f"{order}HH{number}", entries[at : at + entry - room])
        if kind not in _TYPES or values > _MAX_VALUES or tag not in _DECODING | _OF_BLOCKS | {_WIDTH, _HEIGHT}:
            continue
        size = values * np.dtype(_TYPES[kind]).itemsize
        inside = entries[at + entry - room : at + entry]
        there = struct.unpack(f"{order}{number}", inside)[0]
        tags[tag] = _Tag(kind, values, inside[:size] if size <= room else _bytes_at(file, there, size))
    return order, tags


def _file(order: str, tags: dict[int, _Tag], blocks: list[bytes]) -> bytes:
    """A classic TIFF file: header, blocks, values that are too long for the directory, directory."""
    body = b"".join(blocks)
    body += b"\0" * (len(body) % 2)
    directory = struct.pack(f"{order}H", len(tags))
    for tag, (kind, count, data) in sorted(tags.items()):
        if len(data) > 4:
            inside = struct.pack(f"{order}I", 8 + len(body))
            body += data + b"\0" * (len(data) % 2)
        else:
            inside = data.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", tag, kind, count) + inside
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(body))
    return header + body + directory + b"\0\0\0\0"
