"""The configuration that mmdetection keeps in a checkpoint, read as values: Python text that is never run."""

import ast
import operator
from typing import Any

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
"""Of numbers; configurations write ``1.0 / 3``."""

MAX_VALUES = 100_000
"""In one assignment. Names used in others let a short text stand for more than any memory holds."""

MAX_NUMBER = 2**53
"""Of what is computed."""


def read_config(text: str) -> dict[str, Any]:
    """The assignments of a configuration, of literals, ``dict(...)`` and names assigned before; others are left out.

    Raises:
        ValueError: the text is not Python, or more than a configuration is.

    >>> read_config("norm = dict(mean=[1, 2], std=1 / 2)\\nmodel = dict(type='GFL', **norm)\\nx = open('file')")
    {'norm': {'mean': [1, 2], 'std': 0.5}, 'model': {'type': 'GFL', 'mean': [1, 2], 'std': 0.5}}
    """
    try:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            tree = ast.parse(text.partition("\n")[2])  # the first line was the file's path, before mmcv 1
    except SyntaxError as error:
        raise ValueError(f"not Python: {error.msg}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"not Python that can be read ({type(error).__name__})") from error
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                value = _value(node.value, values)
            except (_NoLiteral, TypeError, ZeroDivisionError, OverflowError, RecursionError):
                continue
            if _count(value, {}) > MAX_VALUES:
                raise ValueError(f"too long: {node.targets[0].id} stands for over {MAX_VALUES} values")
            values[node.targets[0].id] = value
    return values


def _count(value: Any, known: dict[int, int]) -> int:
    """Values in a value, those named twice twice; ``known`` by id, so that the counting is not that long."""
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


class _NoLiteral(Exception):
    """An expression that would have to be run."""


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
            if abs(number) > MAX_NUMBER:  # products of products would have more digits than any memory holds
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
    """The first part below a value whose ``type`` is ``kind``, such as a step of a pipeline.

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
