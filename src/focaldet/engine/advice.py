"""Say so if a run's minutes or its GPU ask for another preset."""

import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from focaldet.engine.config import TrainConfig
from focaldet.engine.presets import PRESETS, preset_of

FEW_EPOCHS = 10
"""Fewer epochs than this get a line (docs/training.md#presets)."""

WARM_STEPS, TIMED_STEPS = 5, 20
"""Steps that do not count, because memory is still being allocated, and steps that are timed."""


class PresetAdvice(Callback):
    """Says once, after the first steps, if another preset would suit the minutes or the GPU better.

    Args:
        config: settings of the run.
        say: prints a line.
    """

    def __init__(self, config: TrainConfig, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        self.steps = 0
        self.start = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.steps += 1
        if self.steps == WARM_STEPS:
            self.start = time.perf_counter()
        if self.steps != WARM_STEPS + TIMED_STEPS or not trainer.is_global_zero:
            return
        step_s = (time.perf_counter() - self.start) / TIMED_STEPS
        on_gpu = trainer.strategy.root_device.type == "cuda"
        line = advice(self.config, step_s * float(trainer.num_training_batches), on_gpu=on_gpu)
        if line:
            with tqdm.external_write_mode():
                self.say(line)


def advice(config: TrainConfig, epoch_s: float, *, on_gpu: bool) -> str:
    """A line about the preset; "" if none is needed.

    Args:
        config: settings of the run.
        epoch_s: seconds per epoch.
        on_gpu: whether it trains on a CUDA GPU.

    >>> advice(TrainConfig(data="photos", minutes=10), 400.0, on_gpu=False)
    '10 minutes allow about 1.5 epochs at this speed, too few for a good AP: give more --minutes, or train faster with
    --preset nano'
    """
    if config.weights is not None:  # its network is given
        return ""
    current, names = preset_of(config), list(PRESETS)
    if config.minutes is not None and (epochs := 60 * config.minutes / epoch_s) < FEW_EPOCHS:
        faster = "a smaller network" if current is None else f"--preset {names[0]}"
        return (
            f"{config.minutes:g} minutes allow about {epochs:.2g} epochs at this speed, too few for a good AP: give "
            f"more --minutes{'' if current == names[0] else f', or train faster with {faster}'}"
        )
    if on_gpu and current in names[:-1]:
        return f"this GPU can train larger detectors: --preset {names[-1]} (docs/training.md)"
    return ""
