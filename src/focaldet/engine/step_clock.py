"""Breakdown of the training time."""

import time
from collections.abc import Callable

NETWORK = ("forward", "backward", "update")
"""Parts of a step that the network itself takes; the others should be short in comparison."""

BETWEEN = "between epochs"


class StepClock:
    """Adds up the time of each part of a step; each mark assigns the time since the last one to a part.

    Args:
        synchronise: waits for the device, so that a part does not include work that an earlier one left running.
            This slows down a GPU; without it, the times on a GPU only include launching the work.

    >>> clock = StepClock()
    >>> clock.mark("load"), clock.mark("forward"), clock.mark("load")
    (None, None, None)
    >>> list(clock.take()), clock.take()
    (['load', 'forward'], {})
    """

    def __init__(self, synchronise: Callable[[], None] | None = None) -> None:
        self.synchronise = synchronise
        self.total: dict[str, float] = {}
        """Seconds per part over the whole run."""
        self.steps = 0
        self._recent: dict[str, float] = {}
        self._last = time.perf_counter()

    def restart(self) -> None:
        """Discard the time since the last mark."""
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        """End a part here."""
        if self.synchronise is not None:
            self.synchronise()
        now = time.perf_counter()
        for seconds in (self.total, self._recent):
            seconds[part] = seconds.get(part, 0.0) + now - self._last
        self._last = now

    def take(self) -> dict[str, float]:
        """Seconds per part in all steps since the last call."""
        recent, self._recent = self._recent, {}
        return _of_steps(recent)

    def table(self) -> str:
        """Milliseconds and share of each part of a step, and the time outside the steps."""
        parts = _of_steps(self.total)
        whole = sum(parts.values())
        if not self.steps:
            return "no training step has run"
        lines = [f"time of a step (mean of {self.steps:,}):"]
        for part, seconds in parts.items():
            lines.append(f"  {part:<10}{1e3 * seconds / self.steps:8.1f} ms {seconds / whole:6.1%}")
        rest = whole - sum(parts.get(part, 0.0) for part in NETWORK)
        lines.append(f"  outside the network ({', '.join(p for p in parts if p not in NETWORK)}): {rest / whole:.1%}")
        outside = self.total.get(BETWEEN, 0.0)
        lines.append(
            f"between epochs (measuring AP, saving): {outside:.1f} s, {outside / (whole + outside):.1%} of the run"
        )
        return "\n".join(lines)


def _of_steps(seconds: dict[str, float]) -> dict[str, float]:
    return {part: value for part, value in seconds.items() if part != BETWEEN}
