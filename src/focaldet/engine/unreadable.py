"""Photos that cannot be read do not end a training; each is named once."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from focaldet.data.batching import DetectionDataset


class UnreadablePhotos(Callback):
    """Names each photo for which another one stands in, when that is found out.

    Args:
        dataset: the training photos.
        say: prints a line; silent in all processes but the first, which learns of theirs after each epoch.
    """

    def __init__(self, dataset: DetectionDataset, say: Callable[[str], None]) -> None:
        self.dataset, self.say = dataset, say

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
