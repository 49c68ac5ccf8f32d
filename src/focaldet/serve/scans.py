"""JPEG files that take hours to decode: a scan of some bytes makes a decoder go through all pixels, and it can be
repeated without end. Time, unlike pixels and bytes, is in no header."""

import re

MOST_SCANS = 100
"""Of a JPEG file. Cameras and programs write 1 to some 12; libtiff draws its line here too."""

_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")
"""The next that has a length: 0 stands for a byte FF of coded pixels, D0 to D7 stand among them, 1 means nothing."""

_SOS, _EOI = 0xDA, 0xD9


def too_many_scans(jpeg: bytes) -> bool:
    """Whether a JPEG file has more than ``MOST_SCANS``. Only its markers are looked at.

    >>> too_many_scans(b"\\xff\\xd8" + b"\\xff\\xda\\0\\2..." * MOST_SCANS)
    False
    >>> too_many_scans(b"\\xff\\xd8" + b"\\xff\\xda\\0\\2..." * (MOST_SCANS + 1))
    True
    """
    scans, at = 0, 2
    while (found := _MARKER.search(jpeg, at)) and found[1][0] != _EOI:
        scans += found[1][0] == _SOS
        if scans > MOST_SCANS:
            return True
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
    return False
