"""Select the detections to show by ``--score``, with the bands of ``--coverage``.

--score 0.4             detections with a higher score
--score precision=0.95  per class, the lowest threshold with this precision
--score recall=0.9      per class, the highest threshold with this recall
(nothing)               per class, the threshold with the best F1; without a calibration 0.3
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.records.calibration import PERCENTS, Promise
from focaldet.runtime.certainty import Certainty
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.side_bands import percent_of

PLAIN_SCORE = 0.3
"""Confidence threshold of a model without a calibration."""

_ROUNDING = 1e-5  # thresholds are scores rounded to five digits

Kind = Literal["score", "precision", "recall"]


@dataclass(frozen=True)
class ScoreChoice:
    """A value of ``--score``.

    >>> ScoreChoice.parse("precision=0.95")
    ScoreChoice(kind='precision', value=0.95)
    >>> ScoreChoice.parse("0.4")
    ScoreChoice(kind='score', value=0.4)
    """

    kind: Kind
    value: float

    @classmethod
    def parse(cls, text: str | None) -> "ScoreChoice | None":
        """Read the option; ``None`` if it is not given.

        Raises:
            InputError: the value is neither a number nor one of the two promises.
        """
        if text is None:
            return None
        name, given, number = text.partition("=")
        kind: Kind = "score"
        if given and name in ("precision", "recall"):
            kind = "precision" if name == "precision" else "recall"
        elif given:
            raise InputError(f"--score: expected a number, precision=0.95 or recall=0.9, got {text!r}")
        value = number if given else text
        try:
            if not value.isascii() or "_" in value:
                raise ValueError
            chosen = float(value)
        except ValueError:
            raise InputError(f"--score: expected a number, precision=0.95 or recall=0.9, got {text!r}") from None
        if kind == "score":
            if not 0 <= chosen < 1:
                raise InputError(f"score: expected a number in [0, 1), got {chosen:g}")
        elif not PERCENTS[0] / 100 <= chosen <= PERCENTS[-1] / 100:
            raise InputError(f"--score {kind}: expected 0.5 to {PERCENTS[-1] / 100}, got {chosen:g}")
        return cls(kind, chosen)


@dataclass(frozen=True)
class Selection:
    """Selects the detections to show.

    Args:
        least_raw: ``(C,)`` lower bound of the network's own score for each class; infinity excludes the class.
        above: detections have a higher (calibrated) score.
        certainty: calibration of the model, if it has one.
        coverage: coverage of the bands; ``None`` for no bands.
        notes: sentences for the user.
    """

    least_raw: NDArray[np.float64]
    above: float = -1.0
    certainty: Certainty | None = None
    coverage: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def needed(self) -> float:
        """Lower bound of the network's own score over all classes."""
        return float(max(0.0, self.least_raw.min() - _ROUNDING))

    def least_chances(self) -> list[float]:
        """The lowest shown score of a detection of each class; above 1 for an excluded class."""
        raw = self.least_raw.clip(0, 1)
        chances = raw if self.certainty is None else self.certainty.chances(raw, np.arange(len(raw)))
        left_out = np.isinf(self.least_raw)
        return [2.0 if out else max(self.above, chance) for out, chance in zip(left_out, chances.tolist(), strict=True)]

    def __call__(
        self, found: DetectionArrays, photo_size: tuple[int, int], *, score: float | None = None
    ) -> DetectionArrays:
        """The detections of one photo to show, with their bands.

        Args:
            photo_size: (height, width).
            score: select detections with a higher score instead.
        """
        if score is not None:
            found = found.above(score)
        else:
            raw = found.scores if found.raw_scores is None else found.raw_scores
            found = found.at((raw >= self.least_raw[found.labels] - _ROUNDING) & (found.scores > self.above))
        if self.certainty is None or self.coverage is None:
            return found
        return self.certainty.with_bands(found, self.coverage, photo_size)


def select_by_score(num_classes: int, score: float) -> Selection:
    """Select detections with a higher score."""
    return Selection(np.zeros(num_classes), score)


def select(
    choice: ScoreChoice | None, certainty: Certainty | None, num_classes: int, *, coverage: float | None = None
) -> Selection:
    """Make the selection for ``--score`` and ``--coverage``.

    Raises:
        InputError: a promise without a calibration, or one that no class can keep.
    """
    notes: list[str] = []
    if coverage is not None:
        notes += _check_coverage(certainty, coverage)
    if certainty is None:
        if choice is not None and choice.kind != "score":
            raise InputError(f"--score {choice.kind}={choice.value:g}: {_NO_CALIBRATION}")
        above = PLAIN_SCORE if choice is None else choice.value
        return Selection(np.full(num_classes, above), above)
    calibration = certainty.calibration
    if choice is None:
        least = np.array([each.best_f1 for each in calibration.thresholds])
        return Selection(least, certainty=certainty, coverage=coverage, notes=tuple(notes))
    if choice.kind == "score":
        maps = [None if index is None else calibration.maps[index] for index in calibration.class_maps]
        least = np.array([choice.value if one is None else one.inverse(choice.value) for one in maps])
        return Selection(least - 2 * _ROUNDING, choice.value, certainty, coverage, tuple(notes))
    least = np.empty(num_classes)
    for label, each in enumerate(calibration.thresholds):
        promise = each.precision if choice.kind == "precision" else each.recall
        threshold, sentence = _promised(promise, choice, calibration.class_names[label], each.objects)
        notes += [sentence] if sentence else []
        nothing = math.inf if choice.kind == "precision" else calibration.least_score
        least[label] = nothing if threshold is None else threshold
    if np.isinf(least).all():
        raise InputError(f"--score {choice.kind}={choice.value:g}: {notes[-1]}")
    return Selection(least, certainty=certainty, coverage=coverage, notes=tuple(notes))


_NO_CALIBRATION = "the model has no calibration; make one on labelled photos: focaldet calibrate RUN --data DIR"


def _check_coverage(certainty: Certainty | None, coverage: float) -> list[str]:
    percent_of(coverage)
    if certainty is None:
        raise InputError(f"--coverage {coverage:g}: {_NO_CALIBRATION}")
    if certainty.calibration.bands is None:
        raise InputError(
            f"--coverage {coverage:g}: too few boxes matched an object when the model was calibrated; calibrate it on "
            "more labelled photos: focaldet calibrate RUN --data DIR"
        )
    if groups := certainty.unpromised_groups(coverage):
        return [
            f"too few boxes to promise a coverage of {coverage:.0%}, so their bands are the whole photo: "
            f"{'; '.join(groups)}"
        ]
    return []


def _promised(promise: Promise, choice: ScoreChoice, name: str, objects: int) -> tuple[float | None, str]:
    """The threshold of a class, and a sentence if the photos cannot promise the value."""
    index = percent_of(choice.value)
    threshold, more = promise.thresholds[index], promise.more_objects[index]
    if threshold is not None:
        return threshold, ""
    instead = "its boxes are left out" if choice.kind == "precision" else "all its boxes are shown"
    reason = (
        "the detector does not reach it on the photos of the calibration"
        if more is None
        else f"that would take about {more:,} more labelled objects than the {objects:,} of the calibration"
    )
    return None, f"{name}: no threshold promises a {choice.kind} of {choice.value:.0%}, so {instead}; {reason}"
