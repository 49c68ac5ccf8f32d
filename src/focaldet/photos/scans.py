"""Detect JPEG files that take hours to decode: a scan of a few bytes makes the decoder visit all pixels, and a file can
have any number of scans. The header does not show it.

Pillow's only other format with such scans is JPEG in TIFF, where libtiff itself refuses more than 100.
"""

import re
from mmap import mmap

MAX_SCANS = 100
"""Largest number of scans of a JPEG file, as in libtiff. Cameras and programs write 1 to about 12."""

_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")
"""The next marker with a length: 0 encodes a byte FF in the pixels, D0 to D7 occur among them, and 1 means nothing."""

_SOS, _EOI = 0xDA, 0xD9

_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_FRAMES = (0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xC9, 0xCB, 0xCD, 0xCF, *_PROGRESSIVE)


def too_many_scans(jpeg: bytes | mmap) -> bool:
    """Whether a JPEG file has more than ``MAX_SCANS`` scans, judged by its markers alone.

    If the first scan holds the whole picture, nothing after it is read, since decoders stop there too.

    >>> frame = b"\\xff\\xd8" + b"\\xff\\xc2\\0\\x08" + bytes(5) + b"\\x03"
    >>> too_many_scans(frame + b"\\xff\\xda\\0\\3\\1..." * MAX_SCANS)
    False
    >>> too_many_scans(frame + b"\\xff\\xda\\0\\3\\1..." * (MAX_SCANS + 1))
    True
    """
    scans, at, components = 0, 2, 0
    while (found := _MARKER.search(jpeg, at)) and found[1][0] != _EOI:
        kind, start = found[1][0], found.end()
        if kind in _FRAMES:
            components = 0 if kind in _PROGRESSIVE else int.from_bytes(jpeg[start + 7 : start + 8])
        elif kind == _SOS:
            scans += 1
            if components and jpeg[start + 2 : start + 3] == bytes([components]):
                return False
        if scans > MAX_SCANS:
            return True
        at = start + int.from_bytes(jpeg[start : start + 2])
    return False
