"""External weights of an ONNX file. onnxruntime reads any file that a model names, so names are checked first.

Only the parts of the format (onnx.proto) that can contain a tensor are parsed; numbers are skipped.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from focaldet.checks import InputError

_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {1: "key", 2: "value"},
}
"""Message of onnx.proto -> number and message of each field that can contain a tensor."""


def external_folder(model: bytes, file: Path) -> Path | None:
    """The folder of a model's external weights, always the model's own folder; ``None`` without such weights.

    Args:
        model: content of ``file``.

    Raises:
        InputError: a named file is missing or in another folder, or the model is damaged.
    """
    try:
        names = set(_locations(memoryview(model)))
    except (ValueError, IndexError) as error:
        raise InputError("damaged or not an ONNX file; fetch or export it again") from error
    folder = Path(os.path.realpath(file)).parent
    for name in sorted(names):
        text = name.decode("utf-8", errors="replace")
        try:
            place = os.path.realpath(folder / os.fsdecode(name))
            beside = Path(place).parent == folder and stat.S_ISREG(os.stat(place).st_mode)
        except (OSError, ValueError):
            beside = False
        if not beside:
            raise InputError(
                f"its weights are in {text!r}, which is not a file next to it; copy it there, or export again"
            )
    return folder if names else None


def _locations(model: memoryview) -> Iterator[bytes]:
    """Yield the file names in all tensors of a model."""
    waiting = [("model", model)]
    while waiting:
        kind, message = waiting.pop()
        values: dict[str, bytes] = {}
        for number, content in _fields(message):
            part = _PARTS[kind].get(number)
            if part in ("key", "value"):
                values[part] = bytes(content)
            elif part is not None:
                waiting.append((part, content))
        if values.get("key") == b"location":
            yield values.get("value", b"")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each length-delimited field.

    Raises:
        ValueError, IndexError: the message is damaged.
    """
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        number, kind = (tag & 0xFFFFFFFF) >> 3, tag & 7  # protobuf drops higher bits
        if kind == 0:
            _, at = _number(message, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, at = _number(message, at)
            if at + length > len(message):
                raise ValueError("a field beyond the end")
            yield number, message[at : at + length]
            at += length
        elif kind == 5:
            at += 4
        else:
            raise ValueError("a field of an unknown kind")


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """Read a variable-length number; return it and the position behind it."""
    value = shift = 0
    while shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number without an end")
