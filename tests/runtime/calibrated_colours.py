"""A calibration of the colour model, made by hand: chances, thresholds and factors are easy numbers."""

from focaldet.records.calibration import (
    PERCENTS,
    BandGroup,
    Bands,
    BandTable,
    Calibration,
    ClassThresholds,
    Promise,
    ScoreMap,
)

NONE = Promise((None,) * len(PERCENTS), (None,) * len(PERCENTS))
"""No threshold for any value."""


def up_to(percent: int, threshold: float, more: int | None) -> Promise:
    """One threshold for all values up to a percentage, and this many more objects for the others."""
    kept = [p <= percent for p in PERCENTS]
    return Promise(tuple(threshold if k else None for k in kept), tuple(None if k else more for k in kept))


def factors(count: int, last: int = 99) -> BandGroup:
    steps = tuple(None if p > last else p / 100 * count for p in PERCENTS)
    return BandGroup(f"group of {count}", 100 * count, 50, steps)


GREEN = ScoreMap("platt", (0.0, 0.8, 1.0), (0.0, 0.5, 1.0), 200, 100)
"""Green has 0.8 in the photo, which is a chance of one half; blue has 0.4."""
BLUE = ScoreMap("isotonic", (0.0, 0.4, 1.0), (0.0, 0.9, 1.0), 2000, 1000)
CALIBRATION = Calibration(
    class_names=("red", "green", "blue"),
    data="100 photos",
    split="val",
    photos=100,
    objects=300,
    least_score=0.02,
    maps=(GREEN, BLUE),
    class_maps=(None, 0, 1),
    thresholds=(
        ClassThresholds(0, True, 0.5, NONE, NONE),
        ClassThresholds(100, False, 0.85, up_to(90, 0.75, 40), up_to(95, 0.3, None)),
        ClassThresholds(200, False, 0.35, up_to(60, 0.39, None), up_to(80, 0.25, 300)),
    ),
    bands=Bands(
        "deviation",
        BandTable((factors(1), factors(2, last=95)), (0,) * 12 + (1,) * 6),
        BandTable((factors(1),), (0,) * 18),
    ),
)
