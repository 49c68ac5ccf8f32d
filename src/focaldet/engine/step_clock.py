"""Where the time of a training run goes."""

import time
from collections.abc import Callable

NETWORK = ("forward", "backward", "update")
"""The parts of a step that are the network; the others should be small beside them."""

BETWEEN = "between epochs"


class StepClock:
    """Each mark gives the time since the last one to a part.

    Args:
        synchronise: waits for the device, so that a part is not billed for work that an earlier one left running.
            It slows a GPU down; without it the times of a GPU are those of giving it the work.

    >>> clock = StepClock()
    >>> clock.mark("load"), clock.mark("forward"), clock.mark("load")
    (None, None, None)
    >>> list(clock.take()), clock.take()
    (['load', 'forward'], {})
    """

    def __init__(self, synchronise: Callable[[], None] | None = None) -> None:
        self.synchronise = synchronise
        self.total: dict[str, float] = {}
        """Seconds of each part in the whole run."""
        self.steps = 0
        self._recent: dict[str, float] = {}
        self._last = time.perf_counter()

    def restart(self) -> None:
        """What was before belongs to no part."""
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        """The part ends here."""
        if self.synchronise is not None:
            self.synchronise()
        now = time.perf_counter()
        for seconds in (self.total, self._recent):
            seconds[part] = seconds.get(part, 0.0) + now - self._last
        self._last = now

    def take(self) -> dict[str, float]:
        """Seconds of each part of the steps since the last call."""
        recent, self._recent = self._recent, {}
        return _of_steps(recent)

    def table(self) -> str:
        """Milliseconds and share of each part of a step, and what the run spent outside of the steps."""
        parts = _of_steps(self.total)
        whole = sum(parts.values())
        if not self.steps:
            return "no step was made"
        lines = [f"a step, mean of {self.steps}:"]
        for part, seconds in parts.items():
            lines.append(f"  {part:<10}{1e3 * seconds / self.steps:8.1f} ms {seconds / whole:6.1%}")
        rest = whole - sum(parts.get(part, 0.0) for part in NETWORK)
        lines.append(f"  not the network ({', '.join(p for p in parts if p not in NETWORK)}): {rest / whole:.1%}")
        outside = self.total.get(BETWEEN, 0.0)
        lines.append(
            f"between the epochs (measuring AP, saving): {outside:.1f} s, {outside / (whole + outside):.1%} of the run"
        )
        return "\n".join(lines)


def _of_steps(seconds: dict[str, float]) -> dict[str, float]:
    return {part: value for part, value in seconds.items() if part != BETWEEN}
