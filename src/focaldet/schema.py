"""Check values from a JSON file against a type: mappings, lists, words, numbers."""

import math
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from focaldet.checks import InputError


def check_schema(name: str, value: Any, hint: Any) -> None:
    """Raise InputError unless a value has a type. Numbers must be finite; unknown keys are allowed.

    Args:
        name: name of the value, for the message.
        hint: a ``TypedDict`` or a dataclass, ``list[...]`` or ``tuple[..., ...]``, ``dict[str, ...]``, ``Literal``, a
            union, ``int``, ``float``, ``str``, ``bool``, ``None`` or ``Any``.

    >>> from typing import TypedDict
    >>> class Box(TypedDict):
    ...     label: int
    ...     score: float | None
    >>> check_schema("boxes", [{"label": 1, "score": None}], list[Box])
    >>> check_schema("boxes", [{"label": 1, "score": "high"}], list[Box])
    Traceback (most recent call last):
    ...
    focaldet.checks.InputError: boxes[0].score: expected a number or nothing, got a str
    """
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if any(_is_plain(value, kind) for kind in kinds):
        return
    for kind in kinds:
        if (is_typeddict(kind) or is_dataclass(kind)) and isinstance(value, dict):
            hints = get_type_hints(kind)
            if missing := sorted(_required(kind) - value.keys()):
                raise InputError(f"{name}: {missing[0]!r} is missing")
            for key in hints.keys() & value.keys():
                check_schema(f"{name}.{key}" if name else key, value[key], hints[key])
            return
        if get_origin(kind) in (list, tuple) and isinstance(value, list):
            for index, part in enumerate(value):
                check_schema(f"{name}[{index}]", part, get_args(kind)[0])
            return
        if get_origin(kind) is dict and isinstance(value, dict):
            for key, part in value.items():
                check_schema(f"{name}.{key}", part, get_args(kind)[1])
            return
    raise InputError(f"{name}: expected {' or '.join(map(_word, kinds))}, got {_found(value)}")


def _required(kind: Any) -> set[str]:
    """Names of the required fields."""
    return set(kind.__required_keys__ if is_typeddict(kind) else (field.name for field in fields(kind)))


def _is_plain(value: Any, kind: Any) -> bool:
    """Whether a value has a type without parts."""
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return kind in (int, str, bool, NoneType) and type(value) is kind


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if is_typeddict(kind) or is_dataclass(kind) or get_origin(kind) is dict:
        return "a mapping"
    if get_origin(kind) in (list, tuple):
        return "a list"
    return {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}.get(kind, "nothing")


def _found(value: Any) -> str:
    return str(value) if isinstance(value, float) else f"a {type(value).__name__}" if value is not None else "nothing"
