"""Parse numbers and names in label files: tools write them as words, with a decimal point, or leave them out."""

import codecs
import math
import re
from pathlib import Path
from typing import Any

from focaldet.checks import InputError
from focaldet.files import MAX_TEXT, read_bytes

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?)", re.ASCII | re.IGNORECASE)


def as_number(value: Any) -> float | None:
    """A number, or a word for one; ``None`` for anything else.

    Infinity and NaN are returned as well; later checks report the box.

    >>> as_number("2.5"), as_number(3), as_number("1_0"), as_number(True), as_number(None)
    (2.5, 3.0, None, None, None)
    """
    if type(value) is float:  # the common case, among millions of numbers
        return value
    if isinstance(value, str):
        value = value.strip()
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_size(width: Any, height: Any) -> tuple[int, int] | None:
    """(width, height) in pixels; ``None`` if one is missing, or 0, which some tools write for "unknown"."""
    w, h = as_number(width), as_number(height)
    if w is None or h is None or not (0.5 <= w < math.inf and 0.5 <= h < math.inf):
        return None
    return round(w), round(h)


def as_id(value: Any) -> int | str | None:
    """An id that is equal for 7, 7.0 and "7"; ``None`` for an invalid id.

    >>> as_id(7.0), as_id("7"), as_id("007"), as_id("cat.jpg"), as_id([7])
    (7, 7, '007', 'cat.jpg', None)
    """
    if type(value) is int:  # the common case
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        number = re.fullmatch(r"(-?(?:0|[1-9]\d{0,17}))(?:\.0+)?", value.strip(), re.ASCII)
        return int(number[1]) if number else value
    return int(value) if float(value).is_integer() else None


def as_flag(value: Any) -> bool:
    """Whether a flag is set, which may be a number or a word.

    >>> as_flag(1), as_flag("0"), as_flag("true"), as_flag(None)
    (True, False, True, False)
    """
    number = as_number(value)
    if number is not None:
        return number != 0
    return str(value).strip().lower() in ("true", "yes") if isinstance(value, str) else value is True


def decoded(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        UnicodeError: neither.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def read_lines(path: Path, name: str) -> list[str]:
    """The lines of a text file, stripped, without the empty ones.

    Args:
        name: name of the file in errors.

    Raises:
        InputError: the file is not text.
    """
    try:
        lines = decoded(read_bytes(path, MAX_TEXT)).splitlines()
    except UnicodeError:
        raise InputError(f"{name}: not a text file in UTF-8; save it as one") from None
    return [line.strip() for line in lines if line.strip()]
