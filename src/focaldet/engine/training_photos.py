"""Training photos of a run: report unreadable ones, and continue a resumed run with the right epoch."""

from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from tqdm import tqdm

from focaldet.data.batching import DetectionDataset, TrainingSampler


class TrainingPhotos(Callback):
    """Reports each photo that is replaced because it cannot be read, and sets the epoch of a resumed run.

    Args:
        loader: loads a ``DetectionDataset`` with a ``TrainingSampler``.
        say: prints a line; silent in all processes but the first, which receives the others' reports after each epoch.
    """

    def __init__(self, loader: "DataLoader[Any]", say: Callable[[str], None]) -> None:
        self.dataset = cast(DetectionDataset, loader.dataset)
        self.sampler = cast(TrainingSampler, loader.sampler)
        self.say = say

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning sets it too, but only after the workers have started on the first batches.
        self.sampler.set_epoch(checkpoint["epoch"] + 1)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._name_new()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._name_new()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            flags = self.dataset.unreadable.to(module.device, torch.int32)
            self.dataset.unreadable.copy_(trainer.strategy.reduce(flags, reduce_op="max"))
            self._name_new()

    def _name_new(self) -> None:
        for problem in self.dataset.newly_unreadable():
            with tqdm.external_write_mode():  # above the progress bar, not in the middle of it
                self.say(f"{problem}; the next photo replaces it in training")
        for line in self.dataset.newly_partial():
            with tqdm.external_write_mode():
                self.say(line)
