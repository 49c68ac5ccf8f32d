"""Typed command-line options. A mistake in one is reported in one plain line."""

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
"""Type of an option -> its name in a message."""

ANSWERS = {
    r"argument (-\S+): expected one argument": r"\1: expected a value",
    r"argument (--\S+)/--no-\S+: ignored explicit argument (.*)": r"\1: takes no value, got \2",
    r"argument (-\S+): (.*)": r"\1: \2",
    r"argument (\S+): (.*)": r"{command} \1: \2",
    r"the following arguments are required: (.*)": r"{command}: missing \1; see {prog} --help",
    r"unrecognized arguments: (.*)": r"{command}: unexpected: \1; see {prog} --help",
}
"""argparse's messages -> the messages that replace them."""


METAVARS = {int: "N", float: "X", str: "NAME", Path: "FILE"}
"""Type of an option -> placeholder for its value in the help."""


class HelpFormatter(argparse.HelpFormatter):
    """Help with room for long option names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class HelpAll(argparse.Action):
    """``--help-all``: print the help with the options that ``--help`` leaves out, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        for action, help in parser.hidden.items():
            action.help = help
        parser.print_help()
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Parser of one command. It raises a mistake as an InputError with a one-line message.

    Attributes:
        hidden: option that only ``--help-all`` shows -> its help.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, **options)
        self.hidden: dict[argparse.Action, str] = {}
        self.groups: dict[str, argparse._ArgumentGroup] = {}

    def add(
        self, name: str, hint: Any, *, help: str, group: str | None = None, hidden: bool = False, **options: Any
    ) -> None:
        """Add an option or a positional argument.

        Args:
            hint: type of the value; ``bool`` makes a pair of flags, ``--name`` and ``--no-name``; in a union, a further
                word can only be the default.
            group: heading of the option in the help.
            hidden: only ``--help-all`` shows it.
        """
        help = help.replace("%", "%%")
        if bool in kinds_of(hint):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = reader(hint)
            if name.startswith("-") and options.get("metavar") is None:
                options["metavar"] = _metavar(hint)
        if group is not None and group not in self.groups:
            self.groups[group] = self.add_argument_group(group)
        place = self if group is None else self.groups[group]
        action = place.add_argument(name, help=argparse.SUPPRESS if hidden else help, **options)
        if hidden:
            if not self.hidden:
                self.add_argument("--help-all", action=HelpAll, nargs=0, help="show all options and exit")
            self.hidden[action] = help

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments. Unknown options are reported first, with the nearest known one; then missing arguments.

        Raises:
            InputError: the arguments contain a mistake.
        """
        known = [option for action in self._actions for option in action.option_strings]
        for argument in takewhile(lambda argument: argument != "--", arguments):
            name, _, value = argument.partition("=")
            if re.match("--?[A-Za-z]", name) and name not in known:
                raise InputError(f"unknown option {name}{_meant(name, known) or f'; see {self.prog} --help'}")
            if value == "--":  # argparse would drop it
                raise InputError(f"{name}: expected a value, got '--'")
        try:
            return self.parse_args(arguments)
        except InputError as mistake:
            with contextlib.suppress(InputError):
                return self.parse_intermixed_args(arguments)  # options may be placed between photos
            raise mistake

    def error(self, message: str) -> NoReturn:
        words = {"prog": self.prog, "command": self.prog.removeprefix("focaldet ")}
        for pattern, answer in ANSWERS.items():
            if found := re.fullmatch(pattern, message, re.DOTALL):
                raise InputError(found.expand(answer.format_map(words)))
        raise InputError(message)


def option_name(field: str) -> str:
    """Name of the option for a dataclass field.

    >>> option_name("weight_decay")
    '--weight-decay'
    """
    return "--" + field.replace("_", "-")


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a union allows, or the type itself.

    >>> kinds_of(int | None), kinds_of(bool)
    ((<class 'int'>, <class 'NoneType'>), (<class 'bool'>,))
    """
    return get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)


def reader(hint: Any) -> Callable[[str], Any]:
    """Make a function that converts text to a value of this type; ``none`` becomes ``None`` if the type allows it.

    >>> reader(int)("8"), reader(float | None)("none"), reader(Literal["light", "strong"])("light")
    (8, None, 'light')
    >>> reader(float | str)("0.5"), reader(float | str)("inverse")
    (0.5, 'inverse')
    >>> reader(int | Literal["auto"])("auto"), reader(int | Literal["auto"])("8")
    ('auto', 8)
    >>> reader(Literal["light", "strong"])("lihgt")
    Traceback (most recent call last):
    ...
    argparse.ArgumentTypeError: expected one of light, strong; got 'lihgt'; did you mean 'light'?
    """
    kinds = kinds_of(hint)
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
            # int and float also accept 1_0 and the digits of other scripts.
            plain = kind not in (int, float) or (text.isascii() and "_" not in text)
            plain = plain and (kind is not int or value.bit_length() < 64)
            if text and plain and (kind is not float or math.isfinite(value)):
                return value
        if str in kinds and text:  # a number or words, which the command checks
            return text
        expected = " or ".join([EXPECTED[kind], *choices])
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return read


def _metavar(hint: Any) -> str:
    kind = get_args(hint)[0] if get_origin(hint) in (UnionType, Union) else hint
    return f"{{{','.join(get_args(kind))}}}" if get_origin(kind) is Literal else METAVARS[kind]


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
