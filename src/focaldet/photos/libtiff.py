"""Silence libtiff, with which Pillow reads compressed TIFF: it reports damaged files on stderr, bypassing Python.

Errors are still raised, and reported in one line.
"""

import contextlib
import ctypes

import PIL._imaging

with contextlib.suppress(AttributeError, OSError):  # a Pillow that has libtiff inside its own library hides these
    _pillow = ctypes.CDLL(PIL._imaging.__file__)
    for _name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        _set_handler = getattr(_pillow, _name)
        _set_handler.restype = ctypes.c_void_p
        _set_handler(None)
