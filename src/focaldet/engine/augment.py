"""The augmentation of a run: the transform of its photos, and when it stops mixing several of them."""

from focaldet.data.augmentation import Augmentation
from focaldet.data.own_transform import OwnTransform
from focaldet.data.transforms import TrainTransform
from focaldet.engine.budget import TimeBudget
from focaldet.engine.config import TrainConfig

LAST_SHARE = 0.15
"""Last share of a run without mixed photos: the network then learns from photos like those it will be used on."""


def training_transform(config: TrainConfig, num_classes: int) -> TrainTransform:
    """The transform of a run's training photos.

    Raises:
        InputError: ``transform`` names no function.
    """
    own = None if config.transform is None else OwnTransform(config.transform, num_classes)
    augmentation = Augmentation.parse(config.augment)
    return TrainTransform(config.size, flips=config.flips, augmentation=augmentation, own=own)


def closing(config: TrainConfig, clock: TimeBudget, epochs: float) -> bool:
    """Whether a run is in its last share.

    Args:
        clock: the run's time budget.
        epochs: number of finished epochs.
    """
    done = epochs / config.epochs if clock.budget_s is None else clock.elapsed_s / clock.budget_s
    return done >= 1 - LAST_SHARE
