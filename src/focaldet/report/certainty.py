"""The chapter "Can you rely on it?": how reliable scores, thresholds and bands of a calibrated run are."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from focaldet.checks import InputError, printable
from focaldet.evaluation.certainty import measured_scores
from focaldet.evaluation.matching import ImageResult
from focaldet.records.calibration import (
    FILE,
    PERCENTS,
    Calibration,
    ClassThresholds,
    Promise,
    read_calibration,
)
from focaldet.records.calibration_report import ReliabilityRow, Report, SideReport
from focaldet.records.run_files import Run
from focaldet.report import charts
from focaldet.report.certainty_pictures import band_pictures, confusion_table
from focaldet.report.facts import Counts
from focaldet.schema import check_schema

PROMISED = 95
"""Values of precision and recall, in percent, for which the table shows thresholds."""

SURE = 0.8
"""Score in the first sentence."""

MAX_CLASSES = 40
"""Number of rows of the table, for the classes with the most objects."""

MARKS = 41
"""Scores at which the curves show their numbers."""

_SCALES = {"deviation": "standard deviations", "size": "the size of the box"}


def certainty_context(run: Run, results: Sequence[ImageResult]) -> dict[str, Any] | None:
    """Variables of the template certainty.html; ``None`` for a run without a calibration.

    Args:
        results: detections of the run's evaluation; empty if predictions and truth do not fit together.
    """
    try:
        calibration = read_calibration(run.path)
        if calibration is None or calibration.report is None:
            return None
        check_schema("report", calibration.report, Report)
    except InputError as error:
        reason = printable(str(error).removeprefix(f"{run.path / FILE}: "))
        run.faults.append(f"{FILE} cannot be read ({reason}), so nothing is shown about the reliability.")
        return None
    report = cast(Report, calibration.report)
    scores = report["scores"]
    pairs = (scores["error"], scores["error_75"], scores["laece0"], scores["laace0"])
    if len(report["classes"]) != len(calibration.class_names) or any(len(pair) != 2 for pair in pairs):
        run.faults.append(f"{FILE} has an incomplete report, so nothing is shown about the reliability.")
        return None
    other = measured_scores(calibration, run) if results and not _same_photos(calibration, run) else None
    before, after, off_by = scores["before"], scores["after"], scores["error"]
    sides = report["sides"]
    if other is not None and calibration.bands is not None:
        before, after, sides = other["before"], other["after"], {calibration.bands.scale: other["sides"]}
        off_by = other["error"]
    in_use = sides.get(calibration.bands.scale, []) if calibration.bands else []
    return {
        "sentence": _sentence(report, after, in_use),
        "where": _where(calibration, run, other is not None),
        "diagram": reliability_chart("reliability", before, after),
        "counts": _counts(report),
        "confusion": confusion_table(calibration, report),
        "examples": band_pictures(run, results, calibration),
        "errors": _error_rows(report, off_by, other is not None),
        "coverage": [(_SCALES.get(scale, scale), _coverage_rows(rows)) for scale, rows in sides.items() if rows],
        "classes": _class_rows(calibration, report),
        "more_classes": max(0, len(calibration.class_names) - MAX_CLASSES),
        "curves": _curves(calibration, report),
        "promised": PROMISED,
        "calibrated": bool(calibration.maps),
    }


def reliability_chart(key: str, before: Sequence[ReliabilityRow], after: Sequence[ReliabilityRow]) -> Markup | None:
    """Share of right detections against their score, before and after, with the diagonal of a calibrated detector."""
    series = {name: rows for name, rows in (("network", before), ("calibrated", after)) if rows}
    if not series:
        return None

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=charts.INK, linestyle=(0, (2, 2)), linewidth=1, label="as it should be")
        for i, (name, rows) in enumerate(series.items()):
            points = ([row["score"] for row in rows], [row["right"] for row in rows])
            axes.plot(*points, color=charts.LINES[i], marker="os"[i], markersize=5, label=name)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is right")

    words = "; ".join(
        f"{name}: " + ", ".join(f"score {row['score']:.2f}, right {row['right']:.0%}" for row in rows)
        for name, rows in series.items()
    )
    marks = [
        charts.Mark(
            row["score"],
            f"score {row['score']:.2f} ({name}); {row['right']:.0%} of {row['detections']:,} detections are right",
        )
        for name, rows in series.items()
        for row in rows
    ]
    marks.sort(key=lambda mark: mark.x)
    return charts.chart(key, f"Share of right detections by score. {words}.", draw, marks=marks, legend_columns=3)


def _same_photos(calibration: Calibration, run: Run) -> bool:
    """Whether the evaluation used the photos of the calibration, judged by split and counts."""
    seen = [run.evaluation.get(key) for key in ("split", "images", "objects")]
    return seen == [calibration.split, calibration.photos, calibration.objects]


def _sentence(report: Report, after: Sequence[ReliabilityRow], sides: Sequence[SideReport]) -> str:
    """The chapter in one sentence, with numbers."""
    parts = []
    if after:
        nearest = min(after, key=lambda row: abs(row["score"] - SURE))
        parts.append(f"of the detections with a score around {nearest['score']:.2f}, {nearest['right']:.0%} are right")
    covered = next((row for row in sides if row["promised"] == 0.9 and row["box_count"]), None)
    if covered:
        share = covered["box_inside"] / covered["box_count"]
        parts.append(
            f"in {100 * share:.0f} of 100 detected objects the whole true box lies within the bands that promise 90"
        )
    counts = _counts(report)
    if counts.recall and counts.precision:
        parts.append(
            f"at the chosen thresholds {100 * counts.recall:.0f} of 100 objects are found, and "
            f"{100 * (1 - counts.precision):.0f} of 100 boxes are false alarms"
        )
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else "Too few objects were found to say."


def _counts(report: Report) -> Counts:
    """Found and missed objects and false alarms of all classes, each at its best-F1 threshold."""
    rows = report["classes"]
    found, false, missed = (sum(row[key] for row in rows) for key in ("found", "false", "missed"))
    return Counts(found, false, missed)


def _where(calibration: Calibration, run: Run, other: bool) -> str:
    photos = f"{calibration.data or f'{calibration.photos:,} photos'} ({calibration.objects:,} objects)"
    if other:
        split = run.evaluation.get("split")
        return (
            f"The detector was calibrated on {photos}. Scores and bands are measured on the photos of its evaluation"
            f"{f' ({split})' if split else ''}, which the calibration has not seen; thresholds and curves on the "
            "calibration photos."
        )
    return (
        f"The detector was calibrated on {photos}, and measured on the same photos by cross-fitting: each fifth with "
        "numbers from the other four."
    )


def _error_rows(
    report: Report, error: Sequence[float | None], other: bool
) -> list[tuple[str, float | None, float | None]]:
    """(name, before, after) of the calibration errors; for photos other than the calibration's, only the first one."""
    scores = report["scores"]
    rows = {"score against being right, IoU 0.5": error}
    if not other:
        rows["score against being right, IoU 0.75"] = scores["error_75"]
        rows["LaECE₀: score against IoU"] = scores["laece0"]
        rows["LaACE₀: score against IoU, box by box"] = scores["laace0"]
    return [(name, before, after) for name, (before, after) in rows.items()]


def _coverage_rows(rows: Sequence[SideReport]) -> list[dict[str, Any]]:
    return [
        {
            "promised": row["promised"],
            "box": row["box_inside"] / row["box_count"] if row["box_count"] else None,
            "boxes": row["box_count"],
            "box_width": row["box_width_px"],
            "side": row["side_inside"] / row["side_count"] if row["side_count"] else None,
            "side_width": row["side_width_px"],
        }
        for row in rows
    ]


def _class_rows(calibration: Calibration, report: Report) -> list[dict[str, Any]]:
    """A row per class: threshold, counts, and possible promises."""
    rows: list[dict[str, Any]] = []
    for label, (name, each, counts) in enumerate(
        zip(calibration.class_names, calibration.thresholds, report["classes"], strict=True)
    ):
        rows.append(
            {
                "name": name,
                "objects": each.objects,
                "threshold": float(calibration.chances(label, each.best_f1)),
                "raw": each.best_f1,
                "pooled": each.pooled,
                "found": counts["found"],
                "found_75": counts["found_75"],
                "missed": counts["missed"],
                "false": counts["false"],
                "precision": _promise(calibration, label, each, each.precision),
                "recall": _promise(calibration, label, each, each.recall),
            }
        )
    return sorted(rows, key=lambda row: -row["objects"])[:MAX_CLASSES]


def _promise(calibration: Calibration, label: int, each: ClassThresholds, promise: Promise) -> str:
    index = PERCENTS.index(PROMISED)
    threshold, more = promise.thresholds[index], promise.more_objects[index]
    if threshold is not None:
        return f"{calibration.chances(label, threshold):.2f}"
    return "not reached" if more is None else f"+{more:,} objects"


def _curves(calibration: Calibration, report: Report) -> list[tuple[str, Markup]]:
    """(caption, chart) of precision, recall and F1 against the score, for the classes with most objects."""
    order = sorted(range(len(calibration.class_names)), key=lambda label: -calibration.thresholds[label].objects)
    drawn = []
    for key, caption in (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1")):
        series: Mapping[str, charts.Points] = {
            calibration.class_names[label]: _points(calibration, label, report["classes"][label]["curves"], key)
            for label in order[: charts.SERIES]
            if calibration.thresholds[label].objects
        }
        chart = charts.line_chart(
            f"{key}-by-score",
            f"{caption} by score",
            series,
            "score",
            caption,
            x_range=(0, 1),
            y_range=(0, 1),
            marks=_marks(caption, series),
        )
        if chart:
            drawn.append((f"{caption} if only boxes with a higher score are kept", chart))
    return drawn


def _points(calibration: Calibration, label: int, curves: Any, key: str) -> charts.Points:
    scores = calibration.chances(label, curves["threshold"]).tolist()
    return scores, curves[key][: len(scores)]


def _marks(caption: str, series: Mapping[str, charts.Points]) -> list[charts.Mark]:
    """The numbers of all lines at evenly spaced scores."""
    marks = []
    for score in np.linspace(0, 1, MARKS):
        there = {name: np.interp(score, x, y) for name, (x, y) in series.items() if x and x[0] <= score <= x[-1]}
        if there:
            numbers = (f"{name} {value:.2f}" for name, value in there.items())
            marks.append(charts.Mark(float(score), "; ".join((f"{caption} at a score of {score:.3g}", *numbers))))
    return marks
