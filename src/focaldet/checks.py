"""Named checks. Their errors state the expected value, the given one, and the remedy."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands that only print an error or help need not wait for torch
    from torch import Tensor


class InputError(ValueError):
    """A mistake in the user's input: a file, a folder, an option.

    Its message says in one line what is wrong, where, and how to fix it. The command line prints it without a traceback
    and exits with code 2.
    """


class WorkerError(InputError):
    """An ``InputError`` for a loader's worker. Its message survives the way out of the worker.

    ``DataLoader`` re-creates a worker's error with its traceback as the message; only the last line is kept.
    """

    def __init__(self, message: str) -> None:
        kind = f"{type(self).__module__}.{type(self).__name__}: "
        super().__init__(message.strip().splitlines()[-1].removeprefix(kind))


def in_transform(*tensors: object) -> bool:
    """Whether ``torch.func`` (vmap, grad, jacrev, jvp, …) or forward-mode differentiation is acting on a tensor.

    Both need rules that the kernels' autograd functions lack, and neither allows reading a value.
    """
    import torch
    from torch.autograd import forward_ad

    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return False
    unpack: Any = forward_ad.unpack_dual
    return any(isinstance(x, torch.Tensor) and unpack(x).tangent is not None for x in tensors)


def one_line(error: BaseException) -> str:
    """The message of another library's error, in one short line.

    >>> one_line(ValueError("first\\n   second"))
    'first second'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def escaped(text: str) -> str:
    """Text with unprintable characters escaped as in Python.

    >>> escaped("\\x1b[31mfile")
    '\\\\x1b[31mfile'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


MAX_LINE = 290
"""Largest length of a line about the user's input: 300 characters with ``focaldet: `` before it."""


def printable(text: str, most: int = MAX_LINE) -> str:
    """Text from outside, such as a file name, as one line without control characters.

    Long text is cut in the middle: a message begins with the location of a mistake and ends with the remedy.

    >>> printable("no\\nsuch \\x1b[31mfile")
    'no such \\\\x1b[31mfile'
    >>> printable("/data/" + "long/" * 100 + "photo.jpg: no such file", most=40)
    '/data/long/lo.../photo.jpg: no such file'
    """
    return shortened(escaped(" ".join(text[: 100 * most].split())), most)


def shortened(line: str, most: int) -> str:
    """A line of at most ``most`` characters: the beginning and the end of a longer one.

    >>> shortened("cell", 20), shortened("a" * 100 + "z", 20)
    ('cell', 'aaa...aaaaaaaaaaaaaz')
    """
    end = most // 2 + 4
    return line if len(line) <= most else f"{line[: most - end - 3]}...{line[-end:]}"


def near_name(name: str, known: Iterable[str]) -> str:
    """The words to add to an error about an unknown name: the nearest known one, or all of them.

    >>> near_name("gamm", ["gamma", "alpha"])
    "did you mean 'gamma'?"
    >>> near_name("x", ["gamma", "alpha"])
    "known: 'alpha', 'gamma'"
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(repr(k) for k in known)


def split_names(text: str) -> tuple[str, ...]:
    """Distinct names from a list separated by commas.

    >>> split_names("crowd, Platelets,crowd")
    ('crowd', 'Platelets')
    """
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def first_names(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence: the first few, and the number of others.

    >>> first_names(["cell", "crowd", "dirt"]), first_names(["cell", "crowd", "dirt"], most=2)
    ('cell, crowd, dirt', 'cell, crowd and 1 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {sorted(choices)}, got {value!r} ({near_name(str(value), choices)})")


def check_shape(name: str, tensor: "Tensor", expected: tuple[int, ...]) -> None:
    """Raise ValueError unless ``tensor`` has exactly this shape."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(f"{name}: expected shape {tuple(expected)}, got {tuple(tensor.shape)}")


def check_broadcasts(name: str, tensor: "Tensor", shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``tensor`` broadcasts against ``shape`` without making it larger."""
    lacking = len(shape) - tensor.ndim
    if lacking < 0 or any(n not in (1, m) for n, m in zip(tensor.shape, shape[lacking:], strict=True)):
        raise ValueError(f"{name}: expected a shape that broadcasts against {tuple(shape)}, got {tuple(tensor.shape)}")


def kind_of(value: object) -> str:
    """Type of a value, for a sentence.

    >>> kind_of([1]), kind_of(1), kind_of(None)
    ('a list', 'an int', 'None')
    """
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}" if value is not None else "None"


def check_floating(name: str, tensor: "Tensor") -> None:
    """Raise TypeError unless ``tensor`` holds real floating-point numbers."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {tensor.dtype}")


def first_not_finite(tensors: "Mapping[str, Tensor]") -> str | None:
    """The name of the first tensor that contains infinity or NaN.

    >>> import torch
    >>> first_not_finite({"weight": torch.ones(2), "count": torch.tensor(3)})
    >>> first_not_finite({"weight": torch.ones(2), "bias": torch.tensor([0.0, float("nan")])})
    'bias'
    """
    return next((name for name, x in tensors.items() if x.is_floating_point() and not bool(x.isfinite().all())), None)


def check_finite_weights(file: object, tensors: "Mapping[str, Tensor]") -> None:
    """Raise InputError if the weights in a file contain infinity or NaN."""
    if name := first_not_finite(tensors):
        raise InputError(
            f"{file}: {name!r} contains infinity or NaN: the training diverged, or the file is damaged; "
            "use other weights, or train again with a lower --lr"
        )


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a number of at least 0."""
    if not value >= 0:
        raise ValueError(f"{name}: expected a number >= 0, got {value}")


def check_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise InputError unless ``least <= value <= most``; infinity and NaN are in no range."""
    if not (least <= value <= most and value < math.inf):
        expected = f"at least {least}" if most == math.inf else f"{least} to {most}"
        raise InputError(f"{name}: expected {expected}, got {value}")
