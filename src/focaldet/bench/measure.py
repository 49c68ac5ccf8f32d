"""Time and peak memory of functions, measured side by side."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from focaldet.system.memory import resident_peak_bytes


def interleaved_ms(
    functions: dict[str, Callable[[], object]], *, seconds: float = 3.0, most: int = 200, rest: float = 0.0
) -> dict[str, float]:
    """Median milliseconds of each function, run in turns, so that what else the machine does hits all alike.

    In its turn each runs twice and the second run counts: what the others left in the caches and in the allocator does
    not. Rounds are made for about ``seconds``, at least 5 and at most ``most``. Before each turn are ``rest`` seconds
    of sleep, in which threads of the one before stop to wait busily for more.

    >>> sorted(interleaved_ms({"a": list, "b": dict}, seconds=0.01))
    ['a', 'b']
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    while len(next(iter(times.values()))) < 5 or (
        time.perf_counter() - start < seconds and len(next(iter(times.values()))) < most
    ):
        for name, f in functions.items():
            time.sleep(rest)
            f()
            begin = time.perf_counter()
            f()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: median(t) for name, t in times.items()}


def _reset_peak() -> None:
    """Linux only; elsewhere the peak is that of the process's whole life, which the logits are a small part of."""
    Path("/proc/self/clear_refs").write_text("5")


def _measure(
    prepare: Callable[..., Callable[[], object]], args: tuple[object, ...], queue: "multiprocessing.Queue[int]"
) -> None:
    run = prepare(*args)
    _reset_peak()
    before = resident_peak_bytes()
    run()
    queue.put(resident_peak_bytes() - before)


def extra_peak_bytes(prepare: Callable[..., Callable[[], object]], *args: object) -> int | None:
    """How far the resident memory of a fresh process rises while it runs ``prepare(*args)()``; ``None`` off Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(prepare, args, queue))
    process.start()
    result: int = queue.get(timeout=300)
    process.join()
    return result
