"""float16: steps that the gradient scaler skipped, because a gradient was too large for the number format."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from tqdm import tqdm

from focaldet.engine.module import NotFiniteError


class SkippedSteps(Callback):
    """Reports the number of skipped steps after each epoch; ends a run whose gradients are infinite at every scale.

    The loss is multiplied by a scale, so that small gradients do not become 0 in float16. If a gradient becomes
    infinite, the scaler skips the step and halves the scale. That is normal now and then, especially at the start.
    With bfloat16 and float32 there is no scaler, and nothing to report.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.asked = self.made = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if _scaler(trainer) is not None:
            trainer.optimizers[0].register_step_post_hook(self._made)  # the scaler does not call skipped steps

    def _made(self, *args: Any) -> None:
        self.made += 1

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.asked = self.made = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.asked += 1

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        scaler, skipped = _scaler(trainer), self.asked - self.made
        if scaler is None or not skipped:
            return
        scale = scaler.get_scale()
        if scale < 1:  # all processes raise the same error; the first one prints it
            if not trainer.is_global_zero:
                raise SystemExit(0)
            raise NotFiniteError(
                f"step {trainer.global_step}: the gradient is not finite, however small the loss is scaled; try a "
                "lower --lr, or --precision 32-true; the run keeps the weights saved so far"
            )
        with tqdm.external_write_mode():
            self.say(
                f"epoch {trainer.current_epoch + 1}: {skipped} of {self.asked} steps skipped: their gradients exceeded "
                f"float16 (the loss is now scaled by {scale:g})"
            )


def _scaler(trainer: L.Trainer) -> "torch.amp.GradScaler | None":
    plugin = trainer.precision_plugin
    return plugin.scaler if isinstance(plugin, MixedPrecision) else None
