"""The rows of a PNG file from the first to the last, a few at a time.

PNG cannot be decoded from the middle, and stores a row as differences from the row above. Here rows are decompressed
one after the other, and Pillow undoes the differences in small files that begin with the last row before. The rows
themselves then become small PNG files, from which Pillow gives the same pixels as from the whole file.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> number of values per pixel."""

_KIND_OF_BYTES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Bytes between a value and its left neighbour -> the colour type with this many 8-bit values."""

_COPIED = (b"PLTE", b"tRNS", b"sBIT", b"gAMA", b"cHRM", b"sRGB")
_PART = 1 << 20
"""Number of bytes decompressed at a time."""


class PngHeader(NamedTuple):
    """Contents of the first chunk; ``colours`` is the format's number of the colour type."""

    width: int
    height: int
    bits: int
    colours: int
    interlaced: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without the filter byte."""
        return -(-self.width * self.bits * _CHANNELS[self.colours] // 8)

    @property
    def pixel_bytes(self) -> int:
        """Distance in bytes from a byte to the byte that it is a difference from."""
        return max(1, self.bits * _CHANNELS[self.colours] // 8)


def read_png_header(path: Path) -> PngHeader:
    """The header of a PNG file.

    Raises:
        ValueError: not a PNG file, or damaged.
    """
    with path.open("rb") as file:
        head = file.read(33)
    if head[:8] != _SIGNATURE or head[12:16] != b"IHDR" or len(head) < 33:
        raise ValueError("not a PNG file")
    width, height, bits, colours, _, _, interlace = struct.unpack(">IIBBBBB", head[16:29])
    if colours not in _CHANNELS or not width or not height:
        raise ValueError("its header is damaged")
    return PngHeader(width, height, bits, colours, bool(interlace))


def open_png(file: BinaryIO) -> PngImagePlugin.PngImageFile:
    """Open a PNG file with Pillow, whatever its size."""
    return PngImagePlugin.PngImageFile(file)


def png_strips(path: Path, rows: int) -> Iterator[BytesIO]:
    """Split a file that is not interlaced into small PNG files of ``rows`` rows each; the last may have fewer.

    Raises:
        ValueError: the file ends too early or is damaged; the strips before have been yielded.
        OSError: it cannot be read.
    """
    header = read_png_header(path)
    length = 1 + header.row_bytes
    above, waiting, done = bytes(header.row_bytes), bytearray(), 0
    with path.open("rb") as file:
        copied: list[bytes] = []
        pixels = _inflated(_chunks(file, copied))
        while done < header.height:
            count = min(rows, header.height - done)
            while len(waiting) < count * length:
                part = next(pixels, b"")
                if not part:
                    raise ValueError("its pixels end too early")
                waiting += part
            plain = _unfiltered(header, above, bytes(waiting[: count * length]))
            del waiting[: count * length]
            above = plain[-1].tobytes()
            done += count
            stored = np.concatenate([np.zeros((count, 1), np.uint8), plain], axis=1).tobytes()
            yield BytesIO(_file(header, count, stored, b"".join(copied)))


def _chunks(file: BinaryIO, copied: list[bytes]) -> Iterator[bytes]:
    """The compressed pixels. Chunks before them that affect colours are added to ``copied``."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            while length and (part := file.read(min(length, _PART))):
                length -= len(part)
                yield part
        elif kind in _COPIED:
            copied.append(_chunk(kind, file.read(length)))
        else:
            file.seek(length, 1)
        file.seek(4, 1)


def _inflated(parts: Iterator[bytes]) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    for part in parts:
        rest = part
        while rest:
            try:
                data = inflate.decompress(rest, _PART)
            except zlib.error as error:
                raise ValueError(f"its compressed pixels are damaged: {error}") from error
            rest = inflate.unconsumed_tail
            if data:
                yield data
    if data := inflate.flush():
        yield data


def _unfiltered(header: PngHeader, above: bytes, filtered: bytes) -> NDArray[np.uint8]:
    """``(rows, row_bytes)``: the rows before they became differences."""
    count = len(filtered) // (1 + header.row_bytes)
    between = header.pixel_bytes
    stored = b"\0" + above + filtered
    if between in _KIND_OF_BYTES:  # as if each byte were a value
        seen = PngHeader(header.row_bytes // between, count + 1, 8, _KIND_OF_BYTES[between], False)
        with open_png(BytesIO(_file(seen, count + 1, stored, b""))) as image:
            return np.asarray(image).reshape(count + 1, header.row_bytes)[1:]
    # 16-bit colours: Pillow keeps the high bytes, or the low ones on request.
    halves = []
    for order in ("B", "L"):
        with open_png(BytesIO(_file(header, count + 1, stored, b""))) as image:
            image.tile = [tile._replace(args=f"{image.mode};16{order}") for tile in image.tile]
            halves.append(np.asarray(image))
    return np.stack(halves, axis=-1).reshape(count + 1, header.row_bytes)[1:]


def _file(header: PngHeader, height: int, stored: bytes, copied: bytes) -> bytes:
    """A PNG file of rows with their filter bytes, without compression effort."""
    first = struct.pack(">IIBBBBB", header.width, height, header.bits, header.colours, 0, 0, 0)
    pixels = _chunk(b"IDAT", zlib.compress(stored, 0))
    return _SIGNATURE + _chunk(b"IHDR", first) + copied + pixels + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
