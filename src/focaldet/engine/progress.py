"""Progress of a run: a bar on a terminal, lines in a log."""

import sys
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from focaldet.engine.budget import TimeBudget

LINE_EVERY_S = 30.0
"""Shortest time between two lines of a log, in seconds."""


def progress_display(clock: TimeBudget, say: Callable[[str], None]) -> ProgressBar:
    """Choose a bar for a terminal or a notebook, and lines everywhere else."""
    if sys.stdout.isatty() or "ipykernel" in sys.modules:
        return RunBar(clock)
    return RunLines(clock, say)


class RunBar(TQDMProgressBar):
    """One progress bar per epoch, with the time left in the whole run."""

    def __init__(self, clock: TimeBudget) -> None:
        super().__init__(refresh_rate=1, leave=False)
        self.clock = clock

    def get_metrics(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        left = self.clock.left_s(float(module.progress))  # type: ignore[arg-type]
        shown: dict[str, Any] = module.shown  # type: ignore[assignment]
        return ({} if left is None else {"left": f"{int(left) // 60}:{int(left) % 60:02d}"}) | shown


class RunLines(ProgressBar):
    """Prints what the bar would show, at most once every ``every_s`` seconds."""

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
