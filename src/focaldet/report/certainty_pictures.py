"""Pictures of the chapter "Can you rely on it?": the confusion matrix, boxes with the widest and narrowest bands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focaldet.evaluation.confusion import NO_CLASS
from focaldet.evaluation.matching import Floats, ImageResult
from focaldet.records.calibration import Calibration
from focaldet.records.calibration_report import Report
from focaldet.records.run_files import Run
from focaldet.report import gallery
from focaldet.runtime.side_bands import side_bands

MAX_CLASSES = 12
"""Rows and columns of the matrix; the classes with the fewest objects share one."""

NUM_EXAMPLES = 4
"""Number of boxes with the widest bands, and with the narrowest."""

COVERAGE = 0.9

_SURROUNDINGS = 1.9
_MIN_CUTOUT_PX = 48


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix.

    Args:
        count: objects, or false alarms in the last row.
        share: share of the objects of its row; for false alarms, of the boxes of its column.
        words: the same in words.
        right: whether it counts found objects.
    """

    count: int
    share: float
    words: str
    right: bool


@dataclass(frozen=True)
class Confusion:
    """Names of the columns, and (name, cells) of the rows."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def confusion_table(calibration: Calibration, report: Report) -> Confusion | None:
    """The matrix of a calibration; ``None`` if nothing was counted."""
    if not report["confusion"]:
        return None
    order = sorted(range(len(calibration.class_names)), key=lambda label: -calibration.thresholds[label].objects)
    own = order if len(order) <= MAX_CLASSES else order[: MAX_CLASSES - 1]
    place = {label: index for index, label in enumerate(own)}
    names = [calibration.class_names[label] for label in own]
    if len(own) < len(order):
        names.append(f"{len(order) - len(own):,} other classes")
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    for labelled, predicted, count in report["confusion"]:
        row, column = (len(names) if k == NO_CLASS else place.get(k, len(names) - 1) for k in (labelled, predicted))
        counts[row, column] += count
    rows = [
        (name, [_cell(counts, names, row, column) for column in range(len(names) + 1)])
        for row, name in enumerate(names)
    ]
    rows.append(("no object", [_cell(counts, names, len(names), column) for column in range(len(names))]))
    return Confusion([*names, "missed"], rows)


def _cell(counts: np.ndarray, names: Sequence[str], row: int, column: int) -> Cell:
    count = int(counts[row, column])
    false_alarm = row == len(names)
    total = int((counts[:, column] if false_alarm else counts[row]).sum())
    share = count / total if total else 0.0
    if false_alarm:
        words = f"{names[column]}; {count:,} of {total:,} boxes ({share:.1%}) are false alarms"
    else:
        fate = "missed" if column == len(names) else "found" if column == row else f"taken for {names[column]}"
        words = f"{names[row]}; {count:,} of {total:,} objects ({share:.1%}) are {fate}"
    return Cell(count, share, words, row == column and not false_alarm)


def band_pictures(run: Run, results: Sequence[ImageResult], calibration: Calibration) -> dict[str, list[gallery.Photo]]:
    """Heading -> cut-outs of found objects with the widest and the narrowest bands for their size, one per photo."""
    if calibration.bands is None or list(calibration.class_names) != run.class_names:
        return {}
    least = np.array([each.best_f1 for each in calibration.thresholds])
    examples: list[tuple[float, ImageResult, int, Floats, Floats]] = []
    for result in results:
        kept = np.flatnonzero((result.scores >= least[result.labels]) & (result.matched_gt >= 0))
        boxes, stds, size = result.boxes_xyxy[kept], result.side_std_px[kept], (result.height, result.width)
        if calibration.bands.scale == "deviation" and not np.isfinite(stds).all():
            return {}
        low, high = side_bands(calibration.bands, COVERAGE, boxes, result.labels[kept], stds, size)
        lengths = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1.0))
        widths = (high - low).mean(axis=1) / lengths
        for extreme in {int(widths.argmin()), int(widths.argmax())} if len(kept) else ():
            examples.append((float(widths[extreme]), result, int(kept[extreme]), low[extreme], high[extreme]))
    examples.sort(key=lambda example: example[0])
    headings = {"narrowest": _one_a_photo(examples), "widest": _one_a_photo(examples[::-1])}
    return {
        f"The {kind} bands for the size of the box": [
            _picture(run, calibration, *example[1:], key=f"band-{kind}{index}") for index, example in enumerate(chosen)
        ]
        for kind, chosen in headings.items()
        if chosen
    }


def _one_a_photo(
    examples: Sequence[tuple[float, ImageResult, int, Floats, Floats]],
) -> list[tuple[float, ImageResult, int, Floats, Floats]]:
    chosen: dict[str, tuple[float, ImageResult, int, Floats, Floats]] = {}
    for example in examples:
        chosen.setdefault(str(example[1].image_id), example)
    return list(chosen.values())[:NUM_EXAMPLES]


def _picture(
    run: Run, calibration: Calibration, result: ImageResult, index: int, low: Floats, high: Floats, *, key: str
) -> gallery.Photo:
    """A box with its band, and the labelled box."""
    names, label = calibration.class_names, int(result.labels[index])
    outer, inner = np.concatenate([low[:2], high[2:]]), np.concatenate([high[:2], low[2:]])
    window = gallery.window_around(result, outer[None], _SURROUNDINGS, _MIN_CUTOUT_PX)
    (data,) = gallery.embed_cutouts(gallery.photo_path(run, result), result, [window])
    chance = float(calibration.chances(label, result.scores[index]))
    sides = (high - low).mean()
    gt = int(result.matched_gt[index])
    truth = result.gt_xyxy[gt]
    inside = bool((low <= truth + 1e-6).all() and (truth - 1e-6 <= high).all())
    verdict = f"the labelled box {'lies' if inside else 'does not lie'} inside"
    words = f"sides ± {sides / 2:.1f} px; {verdict}"
    band = _ring(outer, inner)
    described = f"{names[label]}, score {chance:.2f}; {words}"
    box = gallery.make_box(result.boxes_xyxy[index], label, names, "found", described, band)
    drawn = [gallery.truth_box(result, gt, names), box]
    panel = gallery.Panel(f"{names[label]} {chance:.2f}", words, drawn)
    x, y, width, height = window
    return gallery.Photo(key, Path(result.file_name).name, width, height, data, [panel], x, y)


def _ring(outer: Floats, inner: Floats) -> str:
    """SVG path of the area between two boxes, as four rectangles; the whole outer box if no inner box is left."""
    x1, y1, x2, y2 = outer
    a1, b1 = inner[:2]
    a2, b2 = np.maximum(inner[2:], inner[:2])
    parts = [(x1, y1, x2, b1), (x1, b2, x2, y2), (x1, b1, a1, b2), (a2, b1, x2, b2)]
    return "".join(f"M{a:.1f} {b:.1f}H{c:.1f}V{d:.1f}H{a:.1f}Z" for a, b, c, d in parts)
