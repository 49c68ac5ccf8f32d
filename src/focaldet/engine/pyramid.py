"""Choose a run's pyramid levels by the sizes of its objects."""

from collections.abc import Callable
from dataclasses import replace

from focaldet.checks import first_names
from focaldet.data.object_sizes import median_sides, small_classes, small_classes_line
from focaldet.data.records import DataFolder
from focaldet.engine.config import DEFAULT_LEVELS, TrainConfig
from focaldet.models.backbone import feature_strides
from focaldet.models.fpn import STRIDES

SMALL_SHARE = 1 / 3
"""Share of classes that must be small for a pyramid from stride 4: AP weights all classes equally."""


def with_levels(config: TrainConfig, folder: DataFolder, say: Callable[[str], None]) -> TrainConfig:
    """The configuration with ``levels`` p3-p7 or p2-p6 instead of ``"auto"``; prints a line if objects are small.

    Args:
        folder: the photos; the train split is measured.
        say: prints a line.
    """
    size, names = None if config.tile else config.size, folder.class_names
    medians = median_sides(folder.splits["train"], size)
    if config.levels == "auto" and config.weights is None:
        small = small_classes(medians, names, STRIDES[DEFAULT_LEVELS][0])
        fine = STRIDES["p2-p6"][0] in feature_strides(config.backbone)
        if fine and small and len(small) >= SMALL_SHARE * len(medians):
            say(
                f"levels p2-p6 (stride 4), because the median object is small: {first_names(small)}; "
                "--levels p3-p7 is faster but detects them worse"
            )
            return replace(config, levels="p2-p6")
    config = config.without_photos()
    assert config.levels != "auto"
    if line := small_classes_line(medians, names, size, STRIDES[config.levels][0]):
        say(line)
    return config
