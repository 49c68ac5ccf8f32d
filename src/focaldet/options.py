"""Options of a command line, each with its type; a mistake in one is answered in one line of plain words."""

import argparse
import contextlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from focaldet.checks import InputError

EXPECTED = {int: "a whole number", float: "a number", str: "a value", Path: "a path"}
"""What an option takes, in words."""

ANSWERS = {
    r"argument (-\S+): expected one argument": r"\1: expected a value",
    r"argument (--\S+)/--no-\S+: ignored explicit argument (.*)": r"\1: takes no value, got \2",
    r"argument (-\S+): (.*)": r"\1: \2",
    r"argument (\S+): (.*)": r"{command} \1: \2",
    r"the following arguments are required: (.*)": r"{command}: missing \1; see {prog} --help",
    r"unrecognized arguments: (.*)": r"{command}: unexpected: \1; see {prog} --help",
}
"""argparse's messages, and what is said instead."""


class Parser(argparse.ArgumentParser):
    """A command, that raises a mistake in it as the one line that answers it."""

    def add(self, name: str, hint: Any, *, help: str, **options: Any) -> None:
        """An option, or a positional argument, that takes what this type says."""
        help = help.replace("%", "%%")
        if hint is bool:
            self.add_argument(name, action=argparse.BooleanOptionalAction, help=help, **options)
            return
        if get_origin(hint) is Literal:
            options.setdefault("metavar", f"{{{','.join(get_args(hint))}}}")
        self.add_argument(name, type=reader(hint), help=help, **options)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values. An option that is not known is refused first, with the one that was meant; then what is missing.

        Raises:
            InputError: a mistake.
        """
        known = [option for action in self._actions for option in action.option_strings]
        for argument in takewhile(lambda argument: argument != "--", arguments):
            name = argument.split("=")[0]
            if re.match("--?[A-Za-z]", name) and name not in known:
                raise InputError(f"unknown option {name}{_meant(name, known) or f'; see {self.prog} --help'}")
        return self.parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        words = {"prog": self.prog, "command": self.prog.removeprefix("focaldet ")}
        for pattern, answer in ANSWERS.items():
            if found := re.fullmatch(pattern, message, re.DOTALL):
                raise InputError(found.expand(answer.format_map(words)))
        raise InputError(message)


def option_name(field: str) -> str:
    """What the option of a dataclass's field is called.

    >>> option_name("weight_decay")
    '--weight-decay'
    """
    return "--" + field.replace("_", "-")


def reader(hint: Any) -> Callable[[str], Any]:
    """Reads a value of a type: one of some words, a number, a path; ``none`` where nothing is a value too.

    >>> reader(int)("8"), reader(float | None)("none"), reader(Literal["light", "strong"])("light")
    (8, None, 'light')
    >>> reader(int | Literal["auto"])("auto"), reader(int | Literal["auto"])("8")
    ('auto', 8)
    >>> reader(Literal["light", "strong"])("lihgt")
    Traceback (most recent call last):
    ...
    argparse.ArgumentTypeError: expected one of light, strong; got 'lihgt'; did you mean 'light'?
    """
    kinds = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    choices = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    kind = next((kind for kind in kinds if kind is not NoneType and get_origin(kind) is not Literal), None)

    def read(text: str) -> Any:
        if text in choices:
            return text
        if kind is None:
            expected = "one of " * (len(choices) > 1) + ", ".join(choices)
            raise argparse.ArgumentTypeError(f"expected {expected}; got {text!r}{_meant(text, choices)}")
        if text == "none" and NoneType in kinds:
            return None
        with contextlib.suppress(ValueError):
            value = kind(text)
            if text and (kind is not float or math.isfinite(value)):
                return value
        expected = " or ".join([EXPECTED[kind], *choices])
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return read


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
