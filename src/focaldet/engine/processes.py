"""A run on several processes: who speaks and writes, and what an error in one of them is to the others.

Lightning starts the processes of a machine by running the command once more for each, so all of them pass through the
same code; files and lines for the person are the first one's.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig

RANKS = ("RANK", "SLURM_PROCID", "GROUP_RANK", "NODE_RANK", "LOCAL_RANK")
"""What Lightning, torchrun and SLURM call a process's place; the first process has 0 in all that are set."""


def check_ranks() -> None:
    """Raise InputError unless each place of this process, where it is stated, is a number; Lightning reads them."""
    for name in RANKS:
        stated = os.environ.get(name, "0")
        if not (stated.isascii() and stated.isdecimal()):
            raise InputError(f"{name}: expected the number of a process, got {stated!r}; unset {name} to train alone")


def is_first_process(config: TrainConfig) -> bool:
    """Whether this process speaks and writes for the run. Known from the environment, before any process is started.

    >>> is_first_process(TrainConfig(data="photos"))
    True
    """
    alone = config.devices * config.nodes == 1
    return alone or all(os.environ.get(name, "0") == "0" for name in RANKS)


@contextmanager
def lost_process_in_one_line(config: TrainConfig) -> Iterator[None]:
    """Turn the error of a broken connection, which follows the error in another process, into one line."""
    try:
        yield
    except RuntimeError as error:
        if config.devices * config.nodes == 1 or not any(word in str(error) for word in ("gloo", "NCCL", "onnection")):
            raise
        if not is_first_process(config):
            raise SystemExit(1) from None
        raise InputError("another process of the run has ended; what it said stands above") from error
