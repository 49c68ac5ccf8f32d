"""How a run shows where it is: a bar on a terminal, a line now and then in a log."""

import sys
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from focaldet.engine.callbacks import TimeBudget

LINE_EVERY_S = 30.0
"""Seconds between two lines of a log, at least."""


def progress_display(clock: TimeBudget, say: Callable[[str], None]) -> ProgressBar:
    """A bar where it can be drawn over and over, on a terminal or in a notebook; elsewhere lines."""
    if sys.stdout.isatty() or "ipykernel" in sys.modules:
        return RunBar(clock)
    return RunLines(clock, say)


class RunBar(TQDMProgressBar):
    """A bar an epoch, with the time that the whole run has left."""

    def __init__(self, clock: TimeBudget) -> None:
        super().__init__(refresh_rate=1, leave=False)
        self.clock = clock

    def get_metrics(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        left = self.clock.left_s(float(module.progress))  # type: ignore[arg-type]
        shown: dict[str, Any] = module.shown  # type: ignore[assignment]
        return ({} if left is None else {"left": f"{int(left) // 60}:{int(left) % 60:02d}"}) | shown


class RunLines(ProgressBar):
    """A line with what the bar would show, after the first step that ends so many seconds after the last line."""

    def __init__(self, clock: TimeBudget, say: Callable[[str], None], every_s: float = LINE_EVERY_S) -> None:
        super().__init__()
        self.clock, self.say, self.every_s = clock, say, every_s
        self.last_s = 0.0
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.last_s = self.clock.elapsed_s

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        now = self.clock.elapsed_s
        if not self.enabled or now - self.last_s < self.every_s:
            return
        self.last_s = now
        left = self.clock.left_s(float(module.progress))  # type: ignore[arg-type]
        shown: dict[str, float] = module.shown  # type: ignore[assignment]
        values = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        self.say(
            f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
            + ("" if left is None else f", {left / 60:.1f} minutes left")
            + f": {values}"
        )
