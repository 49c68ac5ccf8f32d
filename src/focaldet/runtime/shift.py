"""Are new photos like the photos of the calibration? A two-sample test on scores and deviations, for ``--check-shift``.

Each box has two numbers: the network's own score, and the mean logarithm of the standard deviations of its sides,
relative to its size. Both are replaced by their rank among all boxes of the class, so that a different mix of classes
has no effect. The distance between two sets of photos is the Kolmogorov-Smirnov distance: the largest difference
between the shares of boxes below any rank. The larger one of both numbers counts.

Boxes of one photo are alike, so photos are shuffled, not boxes. All photos are divided at random many times, and

    p = (1 + divisions with at least the distance of the real one) / (1 + divisions)

If both sets come from the same distribution, p <= 1 % in at most 1 of 100 tests, however alike the boxes of a photo
are.

Axes: N boxes, P photos.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focaldet.checks import InputError
from focaldet.records.calibration import Calibration, ClassThresholds, PhotoSample
from focaldet.runtime.model import DetectionArrays

FALSE_ALARMS = 0.01
"""Largest share of false warnings, among sets of photos that resemble the calibration photos."""

MIN_PHOTOS = 5
"""With fewer new photos, the test would rarely detect even a large difference."""

MAX_PHOTOS = 500
"""Largest number of new photos in the test; if there are more, this many represent them."""

MAX_BOXES = 50
"""Largest number of boxes per photo in the test."""

SHARE = 0.25
"""Boxes count from this share of their class's best-F1 score on: doubtful boxes show a change best."""

_MIN_STD_PX = 1e-3

DIVISIONS = 999

Floats = NDArray[np.float64]


def least_scores(thresholds: Sequence[ClassThresholds], least_score: float) -> Floats:
    """``(C,)``: lowest score of boxes that count, per class."""
    return np.maximum([SHARE * each.best_f1 for each in thresholds], least_score)


def photo_sample(
    scores: ArrayLike, labels: ArrayLike, boxes_xyxy: ArrayLike, side_std_px: ArrayLike | None, least: Floats
) -> PhotoSample:
    """The numbers of one photo's boxes. If there are many, a selection spread evenly over the scores.

    Args:
        scores: ``(N,)``, the network's own.
        labels, boxes_xyxy, side_std_px: labels, boxes and standard deviations of the same detections.
        least: from ``least_scores``.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    kept = np.flatnonzero(scores >= least[labels])
    kept = spread(kept[np.argsort(-scores[kept], kind="stable")], MAX_BOXES)
    widths = np.zeros(0)
    if side_std_px is not None:
        boxes, stds = np.asarray(boxes_xyxy, np.float64)[kept], np.asarray(side_std_px, np.float64)[kept]
        if np.isfinite(stds).all():
            lengths = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1.0))
            widths = np.log(np.maximum(stds, _MIN_STD_PX) / lengths[:, None]).mean(axis=1)
    return PhotoSample(
        tuple(labels[kept].tolist()), tuple(scores[kept].round(3).tolist()), tuple(widths.round(2).tolist())
    )


def spread(values: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most this many of the values, evenly spaced.

    >>> spread(np.arange(10), 4), spread(np.arange(3), 4)
    (array([0, 3, 6, 9]), array([0, 1, 2]))
    """
    return values if len(values) <= most else values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]


def shift_chance(
    known: Sequence[PhotoSample], new: Sequence[PhotoSample], *, seed: int = 0, divisions: int = DIVISIONS
) -> float:
    """p of the test: the probability of at least this distance between sets of photos from the same distribution."""
    photos = [*known, *new]
    counts = np.array([len(one.scores) for one in photos])
    if not counts.any():
        return 1.0
    photo = np.repeat(np.arange(len(photos)), counts)
    label = np.concatenate([one.labels for one in photos]).astype(np.int64)
    numbers = [np.concatenate([one.scores for one in photos])]
    widths = np.concatenate([one.widths for one in photos])
    numbers += [widths] if len(widths) == len(label) else []
    lines = [_line(values, label, photo) for values in numbers]
    is_new = np.arange(len(photos)) >= len(known)

    def distance(is_new: NDArray[np.bool_]) -> float:
        boxes = int(counts[is_new].sum())
        share = np.where(is_new, 1 / max(boxes, 1), -1 / max(int(counts.sum()) - boxes, 1))
        return max(float(np.abs(share[photos].cumsum()[ends]).max()) for photos, ends in lines)

    real, rng = distance(is_new) - 1e-9, np.random.default_rng(seed)
    reached = sum(distance(rng.permutation(is_new)) >= real for _ in range(divisions))
    return (1 + reached) / (1 + divisions)


def _line(
    values: Floats, label: NDArray[np.int64], photo: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The photos of all boxes in the order of their ranks within their classes, and the last index of each rank."""
    ranks = np.empty(len(values))
    for one in np.unique(label):
        mine = label == one
        ordered = np.sort(values[mine])
        below, up_to = (np.searchsorted(ordered, values[mine], side) for side in ("left", "right"))
        ranks[mine] = (below + up_to) / len(ordered)
    order = np.argsort(ranks, kind="stable")
    return photo[order], np.flatnonzero(np.append(np.diff(ranks[order]) > 0, True))


class ShiftCheck:
    """Collects a model's detections in new photos and compares them with the calibration.

    Args:
        calibration: calibration of the model.
        least_score: the model gives no detections with lower scores.

    Raises:
        InputError: the calibration has no sample of its photos.
    """

    def __init__(self, calibration: Calibration, least_score: float = 0.0) -> None:
        if not calibration.sample:
            raise InputError(
                "--check-shift: the calibration has no sample of its photos, because an earlier focaldet made it; "
                "calibrate again: focaldet calibrate RUN --data DIR"
            )
        self.least = least_scores(calibration.thresholds, max(calibration.least_score, least_score))
        self._known = [_above(one, self.least) for one in calibration.sample]
        self._new: dict[Path, list[DetectionArrays]] = {}

    @property
    def needed(self) -> float:
        """The lowest score, by the network itself, of any detection that counts."""
        return float(self.least.min())

    def add(self, file: Path, found: DetectionArrays) -> None:
        """Add a photo, or a frame of a video; all frames together count as one photo."""
        raw = found.scores if found.raw_scores is None else found.raw_scores
        self._new.setdefault(file, []).append(found.at(raw >= self.least[found.labels]))

    def line(self) -> str | None:
        """A warning, or why the test is not possible; nothing if the photos resemble the calibration photos."""
        if len(self._new) < MIN_PHOTOS:
            return f"--check-shift: needs at least {MIN_PHOTOS} photos to compare with the calibration photos"
        files = list(self._new.values())
        new = [self._sample(files[index]) for index in spread(np.arange(len(files)), MAX_PHOTOS)]
        chance = shift_chance(self._known, new)
        if chance > FALSE_ALARMS:
            return None
        return (
            f"these photos do not resemble the calibration photos (p = {chance:.2g}): do not rely on scores, promised "
            "thresholds and bands; calibrate on labelled photos like these: focaldet calibrate RUN --data DIR"
        )

    def _sample(self, found: Sequence[DetectionArrays]) -> PhotoSample:
        scores = [one.scores if one.raw_scores is None else one.raw_scores for one in found]
        stds = [one.side_std_px for one in found if one.side_std_px is not None]
        return photo_sample(
            np.concatenate(scores),
            np.concatenate([one.labels for one in found]),
            np.concatenate([one.boxes_xyxy for one in found]),
            np.concatenate(stds) if stds else None,
            self.least,
        )


def _above(sample: PhotoSample, least: Floats) -> PhotoSample:
    """The boxes of a sample from these scores on."""
    kept = np.asarray(sample.scores) >= least[np.asarray(sample.labels, np.int64)]
    parts = (sample.labels, sample.scores, sample.widths)
    return PhotoSample(*(tuple(np.asarray(part)[kept].tolist()) if len(part) else () for part in parts))
