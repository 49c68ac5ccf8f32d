"""Windows of the photos in a run: their side, the recorded object sizes, and messages about both."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from focaldet.data.object_sizes import (
    auto_tile,
    largest_side,
    median_seen,
    size_difference,
    suggests_tile,
    too_large_without_tile,
)
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.data.windows import windows_per_epoch
from focaldet.engine.config import TrainConfig
from focaldet.engine.spec import ModelSpec
from focaldet.models.fpn import STRIDES

Say = Callable[[str], None]


def with_tile(config: TrainConfig, folder: DataFolder, say: Say) -> TrainConfig:
    """The configuration with a number for ``tile: auto``. Prints the choice, or a hint if windows are needed but not
    used.

    Args:
        config: with levels chosen (``with_levels``).
        folder: the photos; the train split is measured.
    """
    assert config.levels != "auto"  # with_levels has replaced it
    records, strides = folder.splits["train"], STRIDES[config.levels]
    if config.tile == "auto":
        tile, line = auto_tile(records, strides[-1])
        say(line)
        return replace(config, tile=tile)
    if config.tile is None:
        medians = {split: median_seen(records, config.size) for split, records in folder.splits.items()}
        too_large = too_large_without_tile([record for split in folder.splits.values() for record in split])
        small = suggests_tile(records, config.size, strides[0])
        for line in (too_large, small, size_difference(medians, config.size)):
            if line:
                say(line)
    return config


def with_object_sizes(spec: ModelSpec, records: Sequence[ImageRecord]) -> ModelSpec:
    """The description with the sizes of the training objects.

    Args:
        records: the training photos.
    """
    median = median_seen(records, spec.size if spec.tile is None else None)
    return replace(spec, object_px=None if math.isnan(median) else round(median, 1), largest_px=largest_side(records))


def other_sizes(spec: ModelSpec, split: str, records: Sequence[ImageRecord]) -> str:
    """A line if the network sees the objects of these photos in another size than its training objects; else ""."""
    if spec.tile is not None or spec.object_px is None:
        return ""
    medians = {"the training photos": spec.object_px, split: median_seen(records, spec.size)}
    return size_difference(medians, spec.size)


def photos_and_windows(config: TrainConfig, records: Sequence[ImageRecord]) -> str:
    """Words for the photos that a run is trained on."""
    photos = f"{len(records):,} photos"
    if not isinstance(config.tile, int):
        return photos
    return f"{windows_per_epoch(records, config.tile):,} windows of {photos}"
