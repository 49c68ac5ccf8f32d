"""A field of ``TrainConfig`` is an option, defined together with its help, range and group."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar

MAX_MINUTES = 527_040
"""Longest training: a year."""

GROUPS = ("data", "model", "loss", "schedule", "augmentation", "hardware", "output")
"""Groups of options, in the order of ``focaldet train --help`` and docs/options.md."""

AT_LEAST_0, AT_LEAST_1 = (0, math.inf), (1, 2**31)

Value = TypeVar("Value")


def option(
    group: str,
    default: Value,
    help: str,
    *,
    range: tuple[float, float] | None = None,
    metavar: str | None = None,
    main: bool = False,
) -> Value:
    """Field of ``TrainConfig`` with everything that the command line and the documentation say about it.

    Args:
        group: one of ``GROUPS``.
        default: value of the field; ``MISSING`` for a field that must be given.
        help: one line, with the unit. The default is appended unless the line states it.
        range: smallest and largest value.
        metavar: placeholder for the value.
        main: whether ``--help`` shows the option; ``--help-all`` shows all.
    """
    metadata = {"group": group, "help": help, "range": range, "metavar": metavar, "main": main}
    return field(default=default, metadata=metadata)


DEVICES = r"auto|cpu|gpu|mps|cuda(:\d{1,3})?"
"""Names of devices; ``gpu`` is from older configurations."""


def as_options(values: Mapping[str, Any]) -> str:
    """Options as typed on the command line.

    >>> as_options({"lr": 0.002, "class_loss": "focal", "pretrained": False})
    '--lr 0.002 --class-loss focal --no-pretrained'
    """
    words = []
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, shlex.quote("none" if value is None else str(value))]
    return " ".join(words)
