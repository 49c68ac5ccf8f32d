"""Time and peak memory of functions, measured side by side."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from focaldet.system.memory import resident_peak_bytes


def interleaved_ms(
    functions: dict[str, Callable[[], object]],
    *,
    seconds: float = 3.0,
    most: int = 200,
    rest: float = 0.0,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median milliseconds of each function. They run in turns, so that other load on the machine affects all equally.

    In each turn a function runs twice and only the second run counts, so that another function does not affect caches
    and allocator. Rounds continue for about ``seconds``, at least 5 and at most ``most``. ``rest`` seconds of sleep
    before each turn let the busy-waiting threads of the previous function stop. ``wait`` waits for a GPU after a run.

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
            wait()
            begin = time.perf_counter()
            f()
            wait()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: median(t) for name, t in times.items()}


def cuda_times_ms(run: Callable[[], object], runs: int) -> list[float]:
    """Milliseconds of each of ``runs`` calls by the GPU's clock, with nothing from the previous call in its cache.

    Five warm-up calls before them do not count.
    """
    import torch

    flush = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(runs + 5):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return times[5:]


def _reset_peak() -> None:
    """Reset the peak of the resident memory. Linux only."""
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
    """Bytes by which the resident memory of a new process grows in ``prepare(*args)()``; ``None`` except on Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(prepare, args, queue))
    process.start()
    result: int = queue.get(timeout=300)
    process.join()
    return result


def cuda_extra_peak_bytes(prepare: Callable[..., Callable[[], object]], *args: object) -> int:
    """Bytes of a CUDA GPU that ``prepare(*args)()`` takes beyond what ``prepare`` did."""
    import torch

    run = prepare(*args)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before
