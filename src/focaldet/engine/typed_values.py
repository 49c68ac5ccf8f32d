"""Values from a YAML file, converted to the types of a dataclass's fields."""

import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from focaldet.checks import InputError, near_name


def check_keys(values: dict[Any, Any], known: Iterable[str]) -> None:
    """Raise InputError if a mapping has a key that is not known."""
    for key in values:
        if key not in known:
            raise InputError(f"unknown key {key!r}; {near_name(str(key), known)}")


def typed_value(name: str, value: Any, hint: Any) -> Any:
    """Convert a value from a YAML file to its field's type.

    Raises:
        InputError: the value does not fit.
    """
    kinds = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    if get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise InputError(f"{name}: unknown value {value!r}; {near_name(str(value), get_args(hint))}")
    if isinstance(value, str) and any(value in get_args(kind) for kind in kinds if get_origin(kind) is Literal):
        return value
    if get_origin(hint) is tuple and isinstance(value, list | tuple) and len(value) == len(get_args(hint)):
        return tuple(typed_value(name, part, kind) for part, kind in zip(value, get_args(hint), strict=True))
    if isinstance(value, list | tuple) and any(get_args(kind)[1:] == (Ellipsis,) for kind in kinds):
        return tuple(typed_value(name, part, float) for part in value)
    if isinstance(value, Path) and str in kinds:
        return str(value)
    if float in kinds and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML reads 2e-3, which has no decimal point, as text
            value = float(value)
    if any(type(value) is kind for kind in kinds):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}: expected a number, got {value}")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{name}: expected a word, got {value!r}")
        return value
    words = " or ".join(_words(kind) for kind in kinds)
    raise InputError(f"{name}: expected {words}, got {value!r}")


def _words(kind: Any) -> str:
    """Name of a type in a message."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return {NoneType: "nothing", dict: "a mapping"}.get(kind, str(kind.__name__))
