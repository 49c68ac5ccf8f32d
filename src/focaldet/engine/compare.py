"""Detections next to the labels of the same photos, for the page of errors."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from focaldet.checks import InputError, first_names
from focaldet.data.folder import read_labels
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.data.truth import category_ids, coco_truth, image_ids
from focaldet.engine.hub import local_run
from focaldet.engine.load import load_selected
from focaldet.engine.splits import BETTER, Recorded, recorded_splits, trained_on, with_recorded_splits
from focaldet.photos.images import read_photo
from focaldet.photos.regions import open_regions
from focaldet.runtime.model import DetectionArrays, Model
from focaldet.runtime.results import coco_results
from focaldet.runtime.selection import ScoreChoice, ScoreChoices, Selection
from focaldet.runtime.window_stream import look


@dataclass(frozen=True)
class Comparison:
    """Labelled photos and their detections, in the classes common to labels and detector.

    Args:
        truth: COCO data set with absolute file names.
        results: entries of a COCO results file.
        split: the split of the photos; empty for all photos, or if the labels name no splits.
        notes: sentences about which photos were used and what was left out.
        least_score: no box has a lower score.
    """

    truth: dict[str, Any]
    results: list[dict[str, Any]]
    split: str
    notes: list[str]
    least_score: float


def detect_labelled(
    run: Path,
    labels: Path,
    *,
    split: str | None = None,
    score: float | ScoreChoices | None = None,
    calibrated: bool = True,
    max_detections: int | None = None,
    provider: str = "auto",
    device: str = "auto",
    tile: int | None = None,
    overlap: float | None = None,
) -> Comparison:
    """Detect in labelled photos.

    Args:
        run: run folder, or exported model.
        labels: labelled folder, or COCO file.
        split: split of the folder; ``None``: test, or val if there is no test. If the folder has no splits of its own,
            those recorded by the run are used, and photos that the run has not seen count as test photos. Without a
            record, all photos are used.
        score: confidence threshold, or a value of ``--score``; ``None``: as ``predict`` chooses boxes without one.
        calibrated, max_detections, provider, device, tile, overlap: see ``load_model``.

    Raises:
        InputError: the run or the labels cannot be read, there is no such split, or they have no class in common.
    """
    run = local_run(run)
    choices = ScoreChoices(ScoreChoice("score", score)) if isinstance(score, int | float) else score
    options: dict[str, Any] = {"max_detections": max_detections, "tile": tile, "overlap": overlap}
    detector, select = load_selected(run, choices, provider=provider, device=device, calibrated=calibrated, **options)
    folder = read_labels(labels)
    chosen, split, notes = _chosen(folder, recorded_splits(run, folder), split)
    known, labelled = detector.class_names, folder.class_names
    shared = [name for name in known if name in labelled]
    if not shared:
        raise InputError(f"{labels}: its classes are {first_names(labelled)}; {run} knows only {first_names(known)}")
    notes += [*select.notes, *_thresholds(detector.class_names, select)]
    notes += [f"{len(folder.faults):,} faults in the labels; the first: {folder.faults[0]}"] if folder.faults else []
    notes += _left_out("objects", "the detector does not know", (name for name in labelled if name not in known))
    notes += _left_out("boxes", "the labels do not have", (name for name in known if name not in labelled))
    records: list[ImageRecord] = []
    found: list[DetectionArrays] = []
    for record, looked in zip(chosen, detections_in(detector, chosen), strict=True):
        if isinstance(looked, InputError):
            notes.append(f"photo left out: {looked}")
            continue
        records.append(record)
        found.append(select(looked, (record.height, record.width)))
    truth = coco_truth(records, labelled, folder.category_ids)
    ids = dict(zip(labelled, category_ids(labelled, folder.category_ids), strict=True))
    own = {known.index(name) + 1: ids[name] for name in shared}
    truth["categories"] = [{"id": ids[name], "name": name} for name in shared]
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["category_id"] in own.values()]
    results = [
        entry | {"category_id": own[entry["category_id"]]}
        for key, boxes in zip(image_ids(records), found, strict=True)
        for entry in coco_results(key, boxes)
        if entry["category_id"] in own
    ]
    return Comparison(truth, results, split, notes, max(0.0, min(select.least_chances()) - 1e-5))


def detections_in(detector: Model, records: Sequence[ImageRecord]) -> Iterator[DetectionArrays | InputError]:
    """The detections in each photo, or why it cannot be read."""
    if detector.tiling is not None:
        for looked in look(detector, [partial(open_regions, record.path) for record in records], detector.tiling):
            assert looked.found is not None or looked.fault is not None
            yield looked.fault if looked.found is None else looked.found  # type: ignore[misc]
        return
    for record in records:
        try:
            photo = read_photo(record.path)
        except InputError as error:
            yield error
            continue
        yield detector.detect([detector.prepare(photo)])[0]


def _chosen(
    folder: DataFolder, recorded: Recorded, split: str | None
) -> tuple[tuple[ImageRecord, ...], str, list[str]]:
    """Photos to use, their split, and notes on the split if the folder does not define it."""
    photos = tuple(dict.fromkeys(record for records in folder.splits.values() for record in records))
    if split is None and not recorded and "test" in folder.made_splits:
        folder = replace(folder, splits={"": photos}, made_splits=("",), split_origin="the folder has no splits")
    folder = with_recorded_splits(folder, recorded, new="test")
    if split is None:
        split = next((name for name in ("test", "val", *folder.splits) if folder.splits.get(name)), "")
    chosen = folder.splits.get(split, ())
    if not chosen:
        there = ", ".join(name for name in folder.splits if name) or "no splits"
        raise InputError(f"{folder.root}: no photo in split {split!r}; it has {there}")
    notes = []
    if split in folder.made_splits:
        which = f"{len(chosen):,} of {len(photos):,} photos" + (f" ({split})" if split else "")
        unknown = "" if recorded else f"; the run has no record of its training photos. {BETTER}"
        notes.append(f"compared: {which}; {folder.split_origin}{unknown}")
    if warning := trained_on(chosen, recorded):
        notes.append(warning)
    return chosen, split, notes


def _thresholds(class_names: Sequence[str], select: Selection) -> list[str]:
    """A sentence if the classes have different thresholds."""
    least = [f"{score:.2f}" for score in select.least_chances()]
    if len(set(least)) == 1:
        return []
    by_class = [f"{name} {score}" for name, score in zip(class_names, least, strict=True) if float(score) <= 1]
    return [f"lowest score of each class: {first_names(by_class)}"]


def _left_out(things: str, why: str, names: Iterable[str]) -> list[str]:
    listed = ", ".join(names)
    return [f"{things} of classes that {why} are left out: {listed}"] if listed else []
