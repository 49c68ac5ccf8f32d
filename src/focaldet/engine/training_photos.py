"""The photos of a training: a resumed run goes on where it was, and those that cannot be read are named."""

from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from tqdm import tqdm

from focaldet.data.batching import DetectionDataset, TrainingSampler


class TrainingPhotos(Callback):
    """Names each photo for which another one stands in, when that is found out, and sets the epoch of a resumed run.

    Args:
        loader: of a ``DetectionDataset``, by a ``TrainingSampler``.
        say: prints a line; silent in all processes but the first, which learns of theirs after each epoch.
    """

    def __init__(self, loader: "DataLoader[Any]", say: Callable[[str], None]) -> None:
        self.dataset = cast(DetectionDataset, loader.dataset)
        self.sampler = cast(TrainingSampler, loader.sampler)
        self.say = say

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning sets it too, but after the workers have begun with the first batches.
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
            with tqdm.external_write_mode():  # above the progress bar, not behind it
                self.say(f"{problem}; in training the next photo stands in for it")
