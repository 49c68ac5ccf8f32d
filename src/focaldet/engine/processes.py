"""Runs on several processes: which one prints and writes files, and how errors in the others are reported.

Lightning starts each process of a machine by running the same command again, so all of them execute the same code. Only
the first one writes files and prints for the user.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig

RANKS = ("RANK", "SLURM_PROCID", "GROUP_RANK", "NODE_RANK", "LOCAL_RANK")
"""Environment variables for the rank of a process in Lightning, torchrun and SLURM; all that are set are 0 in the first
one."""


def check_ranks() -> None:
    """Raise InputError if a rank in the environment is not a number; Lightning reads them too."""
    for name in RANKS:
        stated = os.environ.get(name, "0")
        if not (stated.isascii() and stated.isdecimal()):
            raise InputError(f"{name}: expected the number of a process, got {stated!r}; unset {name} to train alone")


def is_first_process(config: TrainConfig) -> bool:
    """Whether this process prints and writes for the run, judging by the environment.

    >>> is_first_process(TrainConfig(data="photos"))
    True
    """
    alone = config.devices * config.nodes == 1
    return alone or all(os.environ.get(name, "0") == "0" for name in RANKS)


@contextmanager
def lost_process_in_one_line(config: TrainConfig) -> Iterator[None]:
    """Turn the connection error that follows an error in another process into one line."""
    try:
        yield
    except RuntimeError as error:
        if config.devices * config.nodes == 1 or not any(word in str(error) for word in ("gloo", "NCCL", "onnection")):
            raise
        if not is_first_process(config):
            raise SystemExit(1) from None
        raise InputError("another process of the run failed; see its message above") from error
