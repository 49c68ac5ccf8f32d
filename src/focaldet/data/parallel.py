"""Read many files in parallel."""

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TypeVar

from focaldet.system.cores import cores
from focaldet.system.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_MANY = 1000
"""With fewer items, starting processes does not pay."""

_CHUNK = 64
"""Number of items sent to a process at once."""


def each(work: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None = None) -> list[Result]:
    """``[work(item) for item in items]``, on all cores if there are many items.

    Args:
        work: a module-level function whose argument and result can be sent to another process.
    """
    results: list[Result] = []
    with _workers(len(items)) as workers:
        for result in workers.map(work, items, chunksize=_CHUNK):
            results.append(result)
            if progress is not None and (len(results) % _CHUNK == 0 or len(results) == len(items)):
                progress(len(results), len(items))
    return results


def _workers(count: int) -> Executor:
    # Only forked processes start immediately and need no guard in the caller's script.
    if count < _MANY or cores() < 2 or "fork" not in multiprocessing.get_all_start_methods():
        # Threads overlap waiting for files, not the work.
        return ThreadPoolExecutor(max_workers=min(4, cores()))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python warns about other threads, which the children do not use
        return ProcessPoolExecutor(cores(), multiprocessing.get_context("fork"), initializer=_leave_interrupts)


def _leave_interrupts() -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal; the parent process ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
