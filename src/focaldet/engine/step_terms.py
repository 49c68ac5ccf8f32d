"""The loss terms of each step, kept on the device and read every few steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

READ_EVERY = 10
"""Number of steps between two reads of a tensor. Each read waits for the GPU, which then waits for the next step."""


@dataclass(frozen=True)
class NotFinite:
    """The first term that is infinite or not a number: its step, name and value."""

    step: int
    name: str
    value: float


class StepTerms:
    """Sums of the loss terms, and their last values.

    >>> terms = StepTerms()
    >>> for step in range(3):
    ...     terms.add(step, {"class": torch.tensor(step + 0.5), "box": torch.tensor(1.0)})
    >>> terms.read(), terms.last, terms.take_means()
    (None, {'class': 2.5, 'box': 1.0}, {'class': 1.5, 'box': 1.0})
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        """Terms of the last step that was read."""
        self._names: tuple[str, ...] = ()
        self._unread: list[tuple[int, Tensor]] = []
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one step without reading them."""
        self._names = tuple(terms)
        self._unread.append((step, torch.stack(list(terms.values()))))

    def read(self) -> NotFinite | None:
        """Read all terms added since the last read, at once.

        Returns:
            The last non-finite term of the first step that has one. The sum comes first, so it is named only if finite
            terms overflow in it.
        """
        if not self._unread:
            return None
        rows: list[list[float]] = torch.stack([values for _, values in self._unread]).tolist()
        bad = None
        for (step, _), row in zip(self._unread, rows, strict=True):
            self.last = dict(zip(self._names, row, strict=True))
            for name, value in self.last.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            names = [name for name, value in self.last.items() if not math.isfinite(value)]
            if names and bad is None:
                bad = NotFinite(step, names[-1], self.last[names[-1]])
        self._steps += len(rows)
        self._unread = []
        return bad

    def take_means(self) -> dict[str, float]:
        """Means of the terms read since the last call."""
        means = {name: value / self._steps for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means
