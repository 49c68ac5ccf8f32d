"""Read the config in a checkpoint of mmdetection: Python text, parsed for values and never executed."""

import ast
import operator
from typing import Any

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
"""Supported arithmetic; configs write ``1.0 / 3``."""

MAX_VALUES = 100_000
"""Largest number of values in one assignment. By nesting names, a short text could otherwise fill any memory."""

MAX_NUMBER = 2**53
"""Largest result of arithmetic."""


def read_config(text: str) -> dict[str, Any]:
    """Read the assignments of literals, ``dict(...)`` and names assigned before; other assignments are skipped.

    Raises:
        ValueError: the text is not Python, or too large for a config.

    >>> read_config("norm = dict(mean=[1, 2], std=1 / 2)\\nmodel = dict(type='GFL', **norm)\\nx = open('file')")
    {'norm': {'mean': [1, 2], 'std': 0.5}, 'model': {'type': 'GFL', 'mean': [1, 2], 'std': 0.5}}
    """
    try:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            tree = ast.parse(text.partition("\n")[2])  # before mmcv 1, the first line was the path of the file
    except SyntaxError as error:
        raise ValueError(f"not Python: {error.msg}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"not readable Python ({type(error).__name__})") from error
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                value = _value(node.value, values)
            except (_NoLiteral, TypeError, ZeroDivisionError, OverflowError, RecursionError):
                continue
            if _count(value, {}) > MAX_VALUES:
                raise ValueError(f"too large: {node.targets[0].id} has over {MAX_VALUES:,} values")
            values[node.targets[0].id] = value
    return values


def _count(value: Any, known: dict[int, int]) -> int:
    """Number of nested values, with repeated ones counted again; ``known`` caches counts by id to keep this fast."""
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


class _NoLiteral(Exception):
    """An expression that would have to be executed."""


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=items):
            return [_value(item, names) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, names) for item in items)
        case ast.Dict(keys=keys, values=items):
            return {_value(k, names): _value(v, names) for k, v in zip(keys, items, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            content: dict[str, Any] = {}
            for keyword in keywords:
                value = _value(keyword.value, names)
                content |= value if keyword.arg is None else {keyword.arg: value}
            return content
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS:
            number = OPERATORS[type(op)](_number(left, names), _number(right, names))
            if abs(number) > MAX_NUMBER:  # repeated products could grow until memory is full
                raise OverflowError
            return number
        case _:
            raise _NoLiteral


def _number(node: ast.expr, names: dict[str, Any]) -> float:
    value = _value(node, names)
    if isinstance(value, int | float):
        return value
    raise _NoLiteral


def find(config: Any, kind: str) -> dict[str, Any] | None:
    """Find the first nested dict whose ``type`` is ``kind``, such as a step of a pipeline.

    >>> find({"pipeline": [{"type": "Load"}, {"type": "Resize", "scale": (1333, 800)}]}, "Resize")
    {'type': 'Resize', 'scale': (1333, 800)}
    """
    if isinstance(config, dict):
        if config.get("type") == kind:
            return config
        config = list(config.values())
    if isinstance(config, list | tuple):
        for part in config:
            if (found := find(part, kind)) is not None:
                return found
    return None
