"""Select the detections to show by ``--score``, with the bands of ``--coverage``.

--score 0.4             detections with a higher score
--score precision=0.95  per class, the lowest threshold with this precision
--score recall=0.9      per class, the highest threshold with this recall
--score RBC=0.4,WBC=precision=0.95,0.3: own thresholds for some classes, and one for all others
(nothing)               per class, the threshold with the best F1; without a calibration 0.3
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError, near_name
from focaldet.records.calibration import PERCENTS, Calibration
from focaldet.runtime.certainty import Certainty
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.side_bands import percent_of

PLAIN_SCORE = 0.3
"""Confidence threshold of a model without a calibration."""

_ROUNDING = 1e-5  # thresholds are scores rounded to five digits

Kind = Literal["score", "precision", "recall"]

_EXPECTED = "expected a number, precision=0.95 or recall=0.9"


@dataclass(frozen=True)
class ScoreChoice:
    """The threshold that some classes share: a score, or a promised precision or recall.

    >>> ScoreChoice.parse("precision=0.95")
    ScoreChoice(kind='precision', value=0.95)
    >>> ScoreChoice.parse("0.4")
    ScoreChoice(kind='score', value=0.4)
    """

    kind: Kind
    value: float

    @classmethod
    def parse(cls, text: str) -> "ScoreChoice":
        """Read the value of one class.

        Raises:
            InputError: the value is neither a number nor one of the two promises.
        """
        name, given, number = text.partition("=")
        kind: Kind = "score"
        if given and name in ("precision", "recall"):
            kind = "precision" if name == "precision" else "recall"
        elif given:
            raise InputError(f"--score: {_EXPECTED}, got {text!r}")
        value = number if given else text
        try:
            if not value.isascii() or "_" in value:
                raise ValueError
            chosen = float(value)
        except ValueError:
            raise InputError(f"--score: {_EXPECTED}, got {text!r}") from None
        if kind == "score":
            if not 0 <= chosen < 1:
                raise InputError(f"score: expected a number in [0, 1), got {chosen:g}")
        elif not PERCENTS[0] / 100 <= chosen <= PERCENTS[-1] / 100:
            raise InputError(f"--score {kind}: expected 0.5 to {PERCENTS[-1] / 100}, got {chosen:g}")
        return cls(kind, chosen)

    def __str__(self) -> str:
        return f"{self.value:g}" if self.kind == "score" else f"{self.kind}={self.value:g}"


@dataclass(frozen=True)
class ScoreChoices:
    """A value of ``--score``.

    Args:
        others: choice for all other classes; ``None``: as without the option.
        of_class: choices for some classes, by name.
    """

    others: ScoreChoice | None = None
    of_class: Mapping[str, ScoreChoice] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> "ScoreChoices":
        """Read the option; ``None`` if it was not given.

        A class called "precision" precedes its value like any other: precision=recall=0.9.

        Raises:
            InputError: a value is neither a number nor one of the two promises, or is given twice.

        >>> chosen = ScoreChoices.parse("RBC=0.4,WBC=precision=0.95,0.3")
        >>> {name: str(choice) for name, choice in chosen.of_class.items()}, str(chosen.others)
        ({'RBC': '0.4', 'WBC': 'precision=0.95'}, '0.3')
        """
        others: ScoreChoice | None = None
        of_class: dict[str, ScoreChoice] = {}
        for part in [] if text is None else _parts(text):
            head, _, number = part.rpartition("=")
            name, _, kind = head.rpartition("=") if head.endswith(("=precision", "=recall")) else (head, "", "")
            if head in ("", "precision", "recall"):
                twice, others = others is not None, ScoreChoice.parse(part)
            else:
                twice = name in of_class
                of_class[name] = ScoreChoice.parse(f"{kind}={number}" if kind else number)
            if twice:
                raise InputError(f"--score: got two values for {name or 'all other classes'}")
        return cls(others, of_class)

    def __bool__(self) -> bool:
        return self.others is not None or bool(self.of_class)

    def of(self, name: str) -> ScoreChoice | None:
        """The choice of a class."""
        return self.of_class.get(name, self.others)


def _parts(text: str) -> list[str]:
    """The values between commas; a name may contain commas itself.

    >>> _parts("0.3, cell, red=0.4")
    ['0.3', 'cell, red=0.4']
    """
    parts: list[str] = []
    for part in text.split(","):
        if parts and not re.fullmatch(r"[\d.]+|.*=.*", parts[-1]):
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return parts


@dataclass(frozen=True)
class Selection:
    """Selects the detections to show.

    Args:
        least_raw: ``(C,)`` lower bound of the network's own score for each class; infinity excludes the class.
        above: ``(C,)`` detections of a class have a higher (calibrated) score.
        certainty: calibration of the model, if it has one.
        coverage: coverage of the bands; ``None`` for no bands.
        notes: sentences for the user.
    """

    least_raw: NDArray[np.float64]
    above: NDArray[np.float64]
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
        least: list[float] = np.where(np.isinf(self.least_raw), 2.0, np.maximum(self.above, chances)).tolist()
        return least

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
            found = found.at(
                (raw >= self.least_raw[found.labels] - _ROUNDING) & (found.scores > self.above[found.labels])
            )
        if self.certainty is None or self.coverage is None:
            return found
        return self.certainty.with_bands(found, self.coverage, photo_size)


def select_by_score(num_classes: int, score: float) -> Selection:
    """Select detections with a higher score."""
    return Selection(np.zeros(num_classes), np.full(num_classes, score))


def select(
    choices: ScoreChoices, certainty: Certainty | None, class_names: Sequence[str], *, coverage: float | None = None
) -> Selection:
    """Make the selection for ``--score`` and ``--coverage``.

    Raises:
        InputError: a promise without a calibration, a promise that no class can keep, or an unknown class.
    """
    if unknown := [name for name in choices.of_class if name not in class_names]:
        raise InputError(f"--score {unknown[0]}: no such class; {near_name(unknown[0], class_names)}")
    notes = [] if coverage is None else _check_coverage(certainty, coverage)
    least, above = np.empty(len(class_names)), np.full(len(class_names), -1.0)
    for label, name in enumerate(class_names):
        choice = choices.of(name)
        if choice is not None and choice.kind == "score":
            above[label] = choice.value
            inverse = choice.value if certainty is None else certainty.calibration.network_score(label, choice.value)
            least[label] = inverse - 2 * _ROUNDING
        elif certainty is None:
            if choice is not None:
                raise InputError(f"--score {choice}: {_NO_CALIBRATION}")
            least[label] = above[label] = PLAIN_SCORE
        elif choice is None:
            least[label] = certainty.calibration.thresholds[label].best_f1
        else:
            least[label], sentence = _promised(certainty.calibration, label, choice)
            notes += [sentence] if sentence else []
    if np.isinf(least).all():
        raise InputError(f"--score {choices.of(class_names[-1])}: {notes[-1]}")
    return Selection(least, above, certainty, coverage, tuple(notes))


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


def _promised(calibration: Calibration, label: int, choice: ScoreChoice) -> tuple[float, str]:
    """The threshold of a class, and a sentence if the photos cannot promise the value."""
    each, name = calibration.thresholds[label], calibration.class_names[label]
    promise = each.precision if choice.kind == "precision" else each.recall
    index = percent_of(choice.value)
    threshold, more = promise.thresholds[index], promise.more_objects[index]
    if threshold is not None:
        return threshold, ""
    left_out = choice.kind == "precision"
    instead = "its boxes are left out" if left_out else "all its boxes are shown"
    reason = (
        "the detector does not reach it on the calibration photos"
        if more is None
        else f"that would take about {more:,} more labelled objects than the {each.objects:,} of the calibration"
    )
    sentence = f"{name}: no threshold promises a {choice.kind} of {choice.value:.0%}, so {instead}; {reason}"
    return math.inf if left_out else calibration.least_score, sentence
