"""Image files that Pillow does not write: 16 bits per channel, stated white values, JPEG files with many scans."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png_16(file: Path, values: NDArray[np.uint16], *, significant: int = 0) -> Path:
    """A PNG of 16 bits of ``(H, W)`` or ``(H, W, 3)`` or ``(H, W, 4)``, with sBIT unless it is 0."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    chunks += [(b"sBIT", bytes([significant] * channels))] if significant else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))
    return file


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff_16(file: Path, values: NDArray[np.uint16], *, order: str = "<", **tags: int) -> Path:
    """A TIFF of 16 bits of ``(H, W)`` or ``(H, W, 3)``; ``tags`` by number as ``t281=4095``, 8 as 259 deflates it."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else 3
    pixels = values.astype(f"{order}u2").tobytes()
    if tags.get("t259") == 8:
        pixels = zlib.compress(pixels)
    entries = {256: width, 257: height, 258: 16, 259: 1, 262: 1 if channels == 1 else 2, 277: channels, 278: height}
    entries |= {279: len(pixels)} | {int(name[1:]): value for name, value in tags.items()}
    return _tiff(file, order, entries, pixels, channels)


def _tiff(file: Path, order: str, entries: dict[int, int], pixels: bytes, channels: int) -> Path:
    count = len(entries) + 1  # with StripOffsets
    bits_at = 8 + 2 + 12 * count + 4
    pixels_at = bits_at + 2 * channels
    directory = struct.pack(f"{order}H", count)
    for tag, value in sorted((entries | {273: pixels_at}).items()):
        if tag == 258 and channels == 3:
            directory += struct.pack(f"{order}HHII", tag, 3, channels, bits_at)
        elif value < 65_536:
            directory += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        else:
            directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    file.write_bytes(start + directory + b"\0\0\0\0" + bits + pixels)
    return file


def jpeg_of_scans(extra: int, *, progressive: bool = True) -> bytes:
    """A JPEG file of 64 x 48 px whose last scan is there so many times more."""
    out = BytesIO()
    Image.new("RGB", (64, 48), (25, 204, 102)).save(out, "JPEG", progressive=progressive)
    whole = out.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * extra + whole[-2:]
