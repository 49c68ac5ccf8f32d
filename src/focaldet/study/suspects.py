"""``focaldet data suspects``: labels contradicted by a model that has not seen their photos."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from focaldet.checks import InputError, split_names
from focaldet.data.folder import read_folder
from focaldet.data.folds import Fold
from focaldet.data.ignore import ignore_classes
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.engine.compare import detections_in
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import as_trained
from focaldet.evaluation.suspects import COVERAGE, Suspect, find_suspects
from focaldet.files import write_json, write_text
from focaldet.folders import alone_in, check_out
from focaldet.runtime.selection import ScoreChoices, select
from focaldet.study.cross_validation import fold_config, open_folds, train_folds

Say = Callable[[str], None]

FOLDS = 5
"""Default number of folds: three train, one calibrates, one is judged."""

LEAST_SCORE = 0.05
"""Detections with lower scores are ignored."""


class PhotoSuspect(NamedTuple):
    """A suspect and its photo."""

    record: ImageRecord
    suspect: Suspect


@dataclass(frozen=True)
class Suspects:
    """All suspects.

    Args:
        out: the folder, with ``suspects.json`` and ``suspects.csv``.
        found: most certain first.
        class_names: name of each label.
        photos, objects: number of each that was judged.
        notes: sentences about labels that could not be judged.
    """

    out: Path
    found: tuple[PhotoSuspect, ...]
    class_names: tuple[str, ...]
    photos: int
    objects: int
    notes: tuple[str, ...]


def run_suspects(
    run: Path,
    data: Path,
    *,
    out: Path | None = None,
    folds: int = FOLDS,
    changes: dict[str, Any] | None = None,
    say: Say = print,
) -> Suspects:
    """Train a run's configuration on folds of the photos, and judge the labels of each fold by the other folds.

    Args:
        run: run folder, for its ``config.yaml``.
        data: folder of labelled photos.
        out: folder; an unfinished one is continued. ``None``: named after the data.
        folds: number of folds, at least 3.
        changes: options that replace the run's own.
        say: prints a line.

    Raises:
        InputError: the run or the photos cannot be used, the folder contains something else, or training was stopped.
    """
    config = fold_config(run, data, changes or {})
    out = Path("suspects") / data.resolve().name if out is None else out
    check_out(out, "folds")
    with alone_in(out, "data suspects"):
        folder = read_folder(data, seed=config.seed)
        divided = open_folds(out, config, folder, folds)
        labelled = ignore_classes(folder, split_names(config.ignore or ""))
        found: list[PhotoSuspect] = []
        notes: list[str] = []
        for trained, fold in train_folds(out, config, folder, divided, say=say):
            say(f"judging the labels of {len(fold):,} photos by {trained}")
            found += _judged(trained, labelled, fold, config.device, notes)
        found.sort(key=lambda each: (-each.suspect.certainty, str(each.record.path), each.suspect.box_xyxy))
        write_json(out / "suspects.json", [_entry(each) for each in found])
        write_text(out / "suspects.csv", _table(found))
    photos = [record for fold in divided for record in fold]
    return Suspects(
        out=out,
        found=tuple(found),
        class_names=labelled.class_names,
        photos=len(photos),
        objects=sum(record.num_objects for record in photos),
        notes=tuple(dict.fromkeys(notes)),
    )


def _judged(run: Path, folder: DataFolder, fold: Fold, device: str, notes: list[str]) -> Iterator[PhotoSuspect]:
    """The suspects in the photos of a fold, found by a run that has not seen them."""
    detector = Detector.load(run, device=device)
    selection = select(ScoreChoices(), detector.certainty, detector.class_names)
    detector = detector.with_score_threshold(min(LEAST_SCORE, selection.needed))
    certainty = detector.certainty
    if certainty is None or certainty.calibration.bands is None:
        notes.append(f"{run.name}: too few objects for bands around the sides, so no loose boxes are found there")
    chosen = {record.path for record in fold}
    splits = {"": tuple(r for records in folder.splits.values() for r in records if r.path in chosen)}
    (records,) = as_trained(replace(folder, splits=splits), detector, lambda line: None).splits.values()
    records = tuple({record.path: record for record in records}.values())
    least = np.array(selection.least_chances())
    for record, found in zip(records, detections_in(detector, records), strict=True):
        if isinstance(found, InputError):
            notes.append(f"photo left out: {found}")
            continue
        if certainty is not None:
            found = certainty.with_bands(found, COVERAGE, (record.height, record.width))
        objects = ~record.ignored
        boxes = record.boxes_xyxy.astype(np.float64)
        for suspect in find_suspects(
            found, boxes[objects], record.labels[objects], boxes[record.ignored], detector.class_names, least
        ):
            yield PhotoSuspect(record, suspect)


def _entry(each: PhotoSuspect) -> dict[str, Any]:
    values = asdict(each.suspect)
    for name in ("box_xyxy", "other_xyxy"):
        values[name] = None if values[name] is None else [round(value, 2) for value in values[name]]
    return {"photo": str(each.record.path), **values, "certainty": round(each.suspect.certainty, 4)}


def _table(found: Sequence[PhotoSuspect]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("photo", "kind", "certainty", "labelled", "detected", "x1", "y1", "x2", "y2", "reason"))
    for each in found:
        suspect = each.suspect
        corners = [f"{value:.1f}" for value in suspect.box_xyxy]
        row = (suspect.kind, f"{suspect.certainty:.3f}", suspect.labelled or "", suspect.detected or "")
        table.writerow((each.record.path, *row, *corners, suspect.reason))
    return text.getvalue()
