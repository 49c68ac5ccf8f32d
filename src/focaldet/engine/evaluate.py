"""Measure a run on a split of labelled photos."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focaldet.checks import InputError
from focaldet.data.batching import DetectionDataset
from focaldet.data.classes import with_classes
from focaldet.data.folder import read_folder
from focaldet.data.ignore import ignore_classes
from focaldet.data.rare import count_objects
from focaldet.data.records import DataFolder
from focaldet.data.truth import category_ids, coco_truth
from focaldet.engine.detect import without_detections
from focaldet.engine.detect_windows import detect_photos, photos_to_detect, room_of
from focaldet.engine.detector import Detector
from focaldet.engine.devices import describe_device
from focaldet.engine.hub import check_local
from focaldet.engine.splits import recorded_splits, trained_on, with_recorded_splits
from focaldet.engine.windows import other_sizes
from focaldet.evaluation.average_precision import average_precision, by_frequency
from focaldet.files import write_json
from focaldet.runtime.results import COCO_DETECTIONS, named_limit


def evaluate_run(
    run: Path,
    data: Path,
    split: str | None,
    *,
    say: Callable[[str], None] = print,
    **options: Any,
) -> dict[str, Any]:
    """Measure a run on labelled photos.

    If their folder has no splits of its own, those recorded by the run are used, and photos that the run has not seen
    count as test photos.

    Args:
        split: train, val or test; ``None``: test, or val if there is no test.
        options: see ``detect_split``.

    Raises:
        InputError: see ``read_folder`` and ``evaluate_split``.
    """
    check_local(run, "eval")
    folder = read_folder(data)
    recorded = recorded_splits(run, folder)
    folder = with_recorded_splits(folder, recorded, new="test")
    split = split or ("test" if folder.splits.get("test") else "val")
    if split in folder.made_splits:
        say(folder.split_origin)
    report = evaluate_split(run, folder, split, say=say, **options)
    if warning := trained_on(folder.splits[split], recorded):
        say(warning)
    return report


def evaluate_split(
    run: Path,
    folder: DataFolder,
    split: str,
    *,
    say: Callable[[str], None] = print,
    **options: Any,
) -> dict[str, Any]:
    """Measure a run on a split, and write ``evaluation.json``, ``truth.json`` and ``predictions.json`` into the run.

    Args:
        options: see ``detect_split``. If the detection limit exceeds 100, AP with COCO's limit of 100 is reported too.

    Raises:
        InputError: the split does not exist, or has none of the run's classes.
    """
    detected = detect_split(run, folder, split, say=say, **options)
    return write_evaluation(run, detected, say=say)


def write_evaluation(run: Path, detected: "DetectedSplit", *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure detections, and write the files of ``evaluate_split``. Returns the content of ``evaluation.json``."""
    dataset, truth, results = detected.dataset, detected.truth, detected.results
    evaluation = average_precision(truth, results, max_detections=detected.max_detections)
    report = {
        "split": detected.split,
        "images": len(dataset),
        "objects": sum(record.num_objects for record in dataset.records),
        "ignored": sum(int(record.ignored.sum()) for record in dataset.records),
        "max_detections": evaluation.max_detections,
        "metrics": evaluation.metrics,
        "coco_metrics": evaluation.coco_metrics,
        "per_class": evaluation.per_class,
        "by_frequency": by_frequency(evaluation.per_class, detected.training_objects),
    }
    write_json(run / "truth.json", truth)
    write_json(run / "predictions.json", results)
    write_json(run / "evaluation.json", report)
    say(evaluation_table(report))
    return report


@dataclass(frozen=True)
class DetectedSplit:
    """A split and the detections of a run on it.

    Args:
        split: name of the split.
        dataset: the photos.
        truth: COCO data set.
        results: entries of a COCO results file, with the network's own scores.
        max_detections: detection limit per photo.
        least_score: detections have higher scores.
        training_objects: class -> number of its objects in the training photos; without training photos, in these.
    """

    split: str
    dataset: DetectionDataset
    truth: dict[str, Any]
    results: list[dict[str, Any]]
    max_detections: int
    least_score: float
    training_objects: dict[str, int]


def detect_split(
    run: Path,
    folder: DataFolder,
    split: str,
    *,
    max_detections: int | None = None,
    tile: int | None = None,
    overlap: float | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> DetectedSplit:
    """Detect on a split; errors as in ``evaluate_split``.

    Args:
        max_detections: detection limit per photo; all detections count in AP. ``None``: the run's own limit, or in
            windows the sum of the windows' limits.
        tile, overlap: windows in which to detect, see ``tiling_for``; ``None``: as trained.
        device: see ``choose_device``.
    """
    if not folder.splits.get(split):
        raise InputError(f"{folder.root}: no photo in split {split!r}; it has {', '.join(folder.splits)}")
    windows: dict[str, Any] = {"tile": tile, "overlap": overlap}
    detector = Detector.load(run, max_detections=max_detections, calibrated=False, device=device, **windows)
    if detector.device.type != "cpu":
        say(f"on {describe_device(detector.device)}")
    folder = as_trained(folder, detector, say)
    line = other_sizes(detector.spec, split, folder.splits[split])
    if line and detector.tiling is None:
        say(line)
    in_windows = detector.tiling is not None
    dataset = photos_to_detect(folder.splits[split], in_windows, detector.spec.transform)
    truth = coco_truth(dataset.records, folder.class_names, folder.category_ids)
    show = sys.stderr.isatty()

    def progress(done: int) -> None:
        if show:
            end = "\n" if done == len(dataset) else ""
            print(f"\r{split}: {done} of {len(dataset)} photos", end=end, file=sys.stderr, flush=True)

    ids = category_ids(folder.class_names, folder.category_ids)
    results = detect_photos(detector, dataset, category_ids=ids, progress=progress, say=say)
    for problem in dataset.newly_unreadable():
        say(without_detections(problem))
    counts = count_objects(folder.splits.get("train") or dataset.records, folder.num_classes)
    return DetectedSplit(
        split=split,
        dataset=dataset,
        truth=truth,
        results=results,
        max_detections=room_of(detector, results),
        least_score=detector.evaluation_postprocess().config.score_threshold,
        training_objects=dict(zip(folder.class_names, counts.tolist(), strict=True)),
    )


def as_trained(folder: DataFolder, detector: Detector, say: Callable[[str], None]) -> DataFolder:
    """Convert the folder to the detector's classes, with the same classes ignored as in training. Prints differences.

    Raises:
        InputError: the folder has none of the detector's classes.
    """
    folder = ignore_classes(folder, [name for name in detector.spec.ignored_classes if name in folder.class_names])
    folder, lines = with_classes(folder, detector.class_names)
    for line in lines:
        say(line)
    return folder


def evaluation_table(report: dict[str, Any]) -> str:
    """Format an ``evaluation.json`` for a terminal."""

    def number(value: float | None) -> str:
        return "    –" if value is None else f"{value:.3f}"

    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    lines = [f"{report['split']}: {report['images']:,} photos, {report['objects']:,} objects"]
    if report["ignored"]:
        lines[0] += f", {report['ignored']:,} ignore regions"
    lines.append("  ".join(f"{name.replace('_', ' ')} {number(report['metrics'].get(name))}" for name in names))
    if report["coco_metrics"]:
        lines[-1] += f" {named_limit(report['max_detections'])}"
        coco = "  ".join(f"{name} {number(report['coco_metrics'].get(name))}" for name in names[:3])
        lines.append(f"{coco}  (COCO's: at most {COCO_DETECTIONS})")
    if report.get("by_frequency"):
        groups = report["by_frequency"].items()
        parts = [f"{group} {number(row['AP'])} ({row['classes']})" for group, row in groups]
        lines.append(f"AP by frequency in training (classes): {'  '.join(parts)}")
    width = max([5, *(len(row["name"]) for row in report["per_class"])])
    lines.append(f"{'class':<{width}}  objects     AP   AP50   AP75")
    for row in report["per_class"]:
        numbers = "  ".join(number(row[name]) for name in ("AP", "AP50", "AP75"))
        lines.append(f"{row['name']:<{width}}  {row['objects']:>7}  {numbers}")
    return "\n".join(lines)
