"""The ``report`` of a ``calibration.json``: its quality on labelled photos, for the page and the terminal."""

from typing import TypedDict


class ReliabilityRow(TypedDict):
    """Detections with scores in one tenth: their count, mean score, and the share that is right."""

    detections: int
    score: float
    right: float


class ScoreReport(TypedDict):
    """Errors of the scores, each before and after calibration, and the diagrams of both."""

    error: list[float | None]
    error_75: list[float | None]
    laece0: list[float | None]
    laace0: list[float | None]
    before: list[ReliabilityRow]
    after: list[ReliabilityRow]


class Curves(TypedDict):
    """Precision, recall and F1 of a class at some thresholds of the network's score."""

    threshold: list[float]
    precision: list[float]
    recall: list[float]
    f1: list[float]


class ClassReport(TypedDict):
    """Counts of a class at its best-F1 threshold: objects found and missed, false alarms, and found at IoU 0.75."""

    found: int
    false: int
    missed: int
    found_75: int
    curves: Curves


class SideReport(TypedDict):
    """Number of boxes (sides) whose bands contain the truth, number of all, and the mean width of the bands."""

    promised: float
    box_inside: int
    box_count: int
    box_width_px: float | None
    side_inside: int
    side_count: int
    side_width_px: float | None


class Report(TypedDict):
    """The ``report`` of a calibration, measured by cross-fitting.

    ``sides`` has the bands in use and, next to bands by standard deviation, those by the size of the box. ``confusion``
    has labelled class, predicted class and count, -1 for no class (``evaluation.confusion``).
    """

    scores: ScoreReport
    classes: list[ClassReport]
    confusion: list[list[int]]
    sides: dict[str, list[SideReport]]
