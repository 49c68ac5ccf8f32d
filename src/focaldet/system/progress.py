"""A progress bar on a terminal while many files are read."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int], None]
"""Called with the number of finished items, and the total if known."""

_PATIENCE_S = 1.0
"""Shorter work shows no bar."""


@contextmanager
def progress_bar(what: str, *, unit: str = " photos") -> Iterator[Progress | None]:
    """A callback that draws a bar on standard error; ``None`` if that is not a terminal, or tqdm is not installed.

    Args:
        what: words in front of the bar.
        unit: what is counted.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        tqdm = None
    if tqdm is None or not sys.stderr.isatty():
        yield None
        return
    bar: Any = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:  # only now, so that its time does not include earlier work such as reading labels
            bar = tqdm(desc=what, total=total, unit=unit, leave=False, delay=_PATIENCE_S)
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
