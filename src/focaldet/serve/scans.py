"""Recognise JPEG files that would take hours to decode. A scan of a few bytes makes the decoder process all pixels, and
a file may contain any number of scans. No header announces this."""

import re

MOST_SCANS = 100
"""Limit for a JPEG file. Cameras and programs write 1 to about 12 scans; libtiff has the same limit."""

_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")
"""The next marker with a length field. 0 escapes an FF byte in coded pixels, D0 to D7 occur among them, 1 is void."""

_SOS, _EOI = 0xDA, 0xD9


def too_many_scans(jpeg: bytes) -> bool:
    """Whether a JPEG file has more than ``MOST_SCANS`` scans, judging by its markers alone.

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
