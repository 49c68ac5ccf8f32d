"""The length of a run, in epochs or in minutes: how much of it has passed, and when it ends."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from focaldet.engine.step_terms import READ_EVERY


class TimeBudget(Callback):
    """Measures the training time, and ends the run when its minutes are over.

    The time before an interruption counts too. Neither a step nor the final measurement of AP is cut short, so the last
    one may exceed the budget.

    Args:
        minutes: length of the run, or ``None`` for a run of epochs.

    Attributes:
        interrupted: set it to end the run after the current step.
    """

    def __init__(self, minutes: float | None) -> None:
        self.budget_s = None if minutes is None else minutes * 60
        self.before_s = self.latest_s = 0.0
        self.start = time.perf_counter()
        self.interrupted = False

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far."""
        return self.before_s + time.perf_counter() - self.start

    def left_s(self, progress: float) -> float | None:
        """Seconds left once this share of the run is done; ``None`` if they cannot be estimated yet."""
        if self.budget_s is not None:
            return max(self.budget_s - self.elapsed_s, 0.0)
        return self.elapsed_s * (1 - progress) / progress if progress > 0 else None

    def progress(self, trainer: L.Trainer, batch_index: int) -> float:
        """Share of the run completed before a batch, in [0, 1]; equal in all processes, which must call it together."""
        if self.budget_s is not None:
            if trainer.world_size == 1:
                return min(1.0, self.elapsed_s / self.budget_s)
            # The latest clock of all processes: with different schedules their weights would drift apart. This waits
            # for the GPU, so it happens only now and then.
            if batch_index % READ_EVERY == 0:
                elapsed = torch.tensor(self.elapsed_s, device=trainer.strategy.root_device)
                self.latest_s = float(trainer.strategy.reduce(elapsed, reduce_op="max"))
            return min(1.0, self.latest_s / self.budget_s)
        # In epochs, not steps: a run resumed with another batch size has taken steps of another size.
        of_epoch = int(trainer.num_training_batches)
        return (trainer.current_epoch * of_epoch + batch_index) / max(of_epoch * (trainer.max_epochs or 1), 1)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done = self.interrupted or (self.budget_s is not None and self.elapsed_s >= self.budget_s)
        # All processes stop after the same step: a single one that continued would wait for the others forever.
        # Communicating waits for the GPU, too.
        if trainer.world_size > 1 and index % READ_EVERY and index + 1 < trainer.num_training_batches:
            return
        if trainer.strategy.reduce_boolean_decision(done, all=False):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before_s = float(state["elapsed_s"])
