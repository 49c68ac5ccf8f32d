"""The page of a detector's errors on labelled photos: misclassified objects, false alarms, missed objects."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from focaldet.evaluation.matching import MATCH_IOU, UNMATCHED, Floats, ImageResult, match_run, pairwise_iou
from focaldet.files import write_text
from focaldet.records.run_files import Json, Run
from focaldet.report import gallery
from focaldet.report.facts import total_counts
from focaldet.report.page import render

Kind = Literal["confusion", "false alarm", "missed"]

_NUM_CUTOUTS = 24  # per kind of error; the page counts the others
_SURROUNDINGS = 2.2  # side of a cut-out, relative to the longer side of the error
_MIN_CUTOUT_PX = 64


@dataclass(frozen=True)
class Error:
    """One error on one photo.

    Args:
        kind: ``confusion``: a false positive on an object of another class; ``false alarm``: any other false positive;
            ``missed``: an object without a matching box and without a confusion.
        box: index of the false positive, or ``UNMATCHED``.
        gt: index of the object, or ``UNMATCHED``.
        weight: severity in [0, 1]: the score of a false positive; for a missed object, the share of labelled objects
            that are no larger.
    """

    kind: Kind
    result: ImageResult
    box: int
    gt: int
    weight: float

    @property
    def boxes_xyxy(self) -> Floats:
        """``(1 or 2, 4)``: the predicted box and the labelled box, if they exist."""
        boxes = [self.result.boxes_xyxy[self.box]] if self.box != UNMATCHED else []
        boxes += [self.result.gt_xyxy[self.gt]] if self.gt != UNMATCHED else []
        return np.array(boxes)


def write_errors(
    truth: Json, results: list[Json], out: Path, *, score: float, title: str, notes: Sequence[str] = ()
) -> Path:
    """Write the page, which needs no network and no other file.

    Args:
        truth: a COCO data set; file names are absolute, or relative to ``info.root``.
        results: entries of a COCO results file, with the standard deviations of the sides as ``side_std``.
        out: path of the page.
        score: confidence threshold; boxes with lower scores are left out.
        notes: sentences about the photos, and about photos that could not be compared.

    Raises:
        InputError: the page cannot be written.
    """
    run = Run(out.parent, truth=truth, predictions=results)
    write_text(out, render("errors.html", errors_context(run, score, title, notes)))
    return out


def find_errors(results: Sequence[ImageResult], threshold: float) -> list[Error]:
    """All errors with boxes of at least the score ``threshold``, worst first."""
    areas = np.sort(np.concatenate([np.zeros(0), *(_areas(r.gt_xyxy) for r in results)]))
    errors = []
    for result in results:
        kept = result.scores >= threshold
        for i in np.flatnonzero(kept & (result.matched_gt == UNMATCHED)).tolist():
            g = int(result.confused_with[i])
            errors.append(Error("false alarm" if g == UNMATCHED else "confusion", result, i, g, result.scores[i]))
        for g in sorted(gallery.missed_objects(result, threshold) - set(result.confused_with[kept].tolist())):
            smaller = np.searchsorted(areas, _areas(result.gt_xyxy[g : g + 1])[0], side="right")
            errors.append(Error("missed", result, UNMATCHED, g, smaller / len(areas)))
    return sorted(errors, key=lambda error: -error.weight)


def errors_context(run: Run, threshold: float, title: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Variables of the template errors.html."""
    results, names = match_run(run), run.class_names
    errors = find_errors(results, threshold)
    of_kind = {kind: [e for e in errors if e.kind == kind] for kind in ("confusion", "false alarm", "missed")}
    cutouts = {
        kind: _cutouts(run, some[:_NUM_CUTOUTS], names, threshold, f"cutout{number}-")
        for number, (kind, some) in enumerate(of_kind.items())
    }
    photos = _worst_photos(run, errors, names, threshold)
    groups = [*cutouts.items(), ("Worst photos", photos)]
    return {
        "title": title,
        "sentence": _sentence(results, of_kind, threshold),
        "faults": notes,
        "threshold": threshold,
        "match_iou": MATCH_IOU,
        "num_photos": len(results),
        "counts": total_counts(results, threshold),
        "of_kind": of_kind,
        "classes": _class_rows(results, of_kind, names, threshold),
        "pairs": _pairs(of_kind["confusion"], names),
        "cutouts": cutouts,
        "photos": photos,
        **gallery.gallery_context([(heading, some) for heading, some in groups if some]),
    }


def _sentence(results: Sequence[ImageResult], of_kind: Mapping[str, list[Error]], threshold: float) -> str:
    objects = sum(len(r.gt_labels) for r in results)
    found = total_counts(results, threshold).found
    confusions, false, missed = (len(errors) for errors in of_kind.values())
    photos = f"{len(results):,} photo{'s' * (len(results) != 1)}"
    return (
        f"At a confidence threshold of {threshold:.2f}, the detector finds {found:,} of {objects:,} labelled objects "
        f"on {photos} and misses {missed:,}. Misclassified objects: {confusions:,}; false alarms: {false:,}."
    )


def _class_rows(
    results: Sequence[ImageResult], of_kind: Mapping[str, list[Error]], names: Sequence[str], threshold: float
) -> list[dict[str, Any]]:
    """One row per class: number of objects, detected, misclassified and missed objects, and false alarms."""
    objects: Counter[int] = Counter(int(label) for r in results for label in r.gt_labels)
    unfound = Counter(int(r.gt_labels[g]) for r in results for g in gallery.missed_objects(r, threshold))
    missed = Counter(int(e.result.gt_labels[e.gt]) for e in of_kind["missed"])
    false = Counter(int(e.result.labels[e.box]) for e in of_kind["false alarm"])
    return [
        {
            "name": name,
            "objects": objects[k],
            "found": objects[k] - unfound[k],
            "taken": unfound[k] - missed[k],
            "missed": missed[k],
            "false": false[k],
        }
        for k, name in enumerate(names)
        if objects[k] or false[k]
    ]


def _pairs(confusions: Sequence[Error], names: Sequence[str]) -> list[tuple[str, str, int]]:
    """(labelled class, predicted class, count), most frequent first."""
    pairs = Counter((int(e.result.gt_labels[e.gt]), int(e.result.labels[e.box])) for e in confusions)
    return [(names[labelled], names[predicted], count) for (labelled, predicted), count in pairs.most_common()]


def _cutouts(
    run: Run, errors: Sequence[Error], names: Sequence[str], threshold: float, key: str
) -> list[gallery.Photo]:
    """Cut-outs of the photos that show errors and their surroundings."""
    windows = [gallery.window_around(e.result, e.boxes_xyxy, _SURROUNDINGS, _MIN_CUTOUT_PX) for e in errors]
    data: dict[int, str] = {}
    by_photo: dict[object, list[int]] = {}
    for number, error in enumerate(errors):
        by_photo.setdefault(error.result.image_id, []).append(number)
    for numbers in by_photo.values():  # open each photo once
        result = errors[numbers[0]].result
        cutouts = gallery.embed_cutouts(gallery.photo_path(run, result), result, [windows[n] for n in numbers])
        data |= zip(numbers, cutouts, strict=True)
    photos = []
    for number, (error, window) in enumerate(zip(errors, windows, strict=True)):
        x, y, width, height = window
        panel = _panel(error, names, threshold)
        panel = replace(panel, boxes=[box for box in panel.boxes if _visible(box, window)])
        name = Path(error.result.file_name).name
        photos.append(gallery.Photo(f"{key}{number}", name, width, height, data[number], [panel], x, y))
    return photos


def _visible(box: gallery.Box, window: gallery.Window) -> bool:
    x, y, width, height = window
    return box.x < x + width and box.y < y + height and box.x + box.width > x and box.y + box.height > y


def _panel(error: Error, names: Sequence[str], threshold: float) -> gallery.Panel:
    """Drawing of an error: a false positive with the labelled boxes, or a missed object with the predicted boxes."""
    result, g, i = error.result, error.gt, error.box
    if error.kind != "missed":
        title = f"{names[result.labels[i]]} {result.scores[i]:.2f}"
        around = [gallery.truth_box(result, other, names) for other in range(len(result.gt_labels))]
        return gallery.Panel(
            title, gallery.fault(result, i, names), [*around, gallery.prediction_box(result, i, names)]
        )
    shown = np.flatnonzero(result.scores >= threshold)
    iou = pairwise_iou(result.gt_xyxy[g : g + 1], result.boxes_xyxy[shown])[0]
    width, height = result.gt_xyxy[g, 2:] - result.gt_xyxy[g, :2]
    words = f"{width:.0f} × {height:.0f} px; "
    if iou.any():
        nearest = shown[iou.argmax()]
        words += f"closest box: {names[result.labels[nearest]]} {result.scores[nearest]:.2f}, IoU {iou.max():.2f}"
        if iou.max() >= MATCH_IOU and result.matched_gt[nearest] >= 0:
            words += ", matches another object"
    else:
        words += "no box touches it"
    around = [gallery.prediction_box(result, int(other), names) for other in shown]
    return gallery.Panel(names[result.gt_labels[g]], words, [*around, gallery.truth_box(result, g, names, "missed")])


def _worst_photos(run: Run, errors: Sequence[Error], names: Sequence[str], threshold: float) -> list[gallery.Photo]:
    """The photos with the largest total error weight, with ground truth and predictions side by side."""
    of_photo: dict[object, list[Error]] = {}
    for error in errors:
        of_photo.setdefault(error.result.image_id, []).append(error)
    worst = sorted(of_photo.values(), key=lambda some: -sum(error.weight for error in some))[: gallery.NUM_PHOTOS]
    photos = []
    for number, some in enumerate(worst):
        result, count = some[0].result, Counter(error.kind for error in some)
        taken_for = {e.gt: names[result.labels[e.box]] for e in some if e.kind == "confusion"}
        truth = gallery.truth_panel(result, names, gallery.missed_objects(result, threshold), taken_for)
        predicted = gallery.prediction_panel("Predicted", result, names, threshold)
        words = (
            f"{result.counts(threshold)[0]} detected, {count['missed']} missed, {count['confusion']} misclassified, "
            f"{count['false alarm']} false alarm{'s' * (count['false alarm'] != 1)}"
        )
        photos.append(gallery.photo(f"worst{number}", run, result, [truth, replace(predicted, words=words)]))
    return photos


def _areas(boxes_xyxy: Floats) -> Floats:
    areas: Floats = np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1)
    return areas
