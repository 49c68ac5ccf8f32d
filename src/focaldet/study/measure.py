"""Measure one rung and seed: its line in ``study.jsonl``, and its details."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from focaldet.data.batching import Batch, DetectionDataset, collate
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.data.truth import coco_truth
from focaldet.engine.beginning import first_detector
from focaldet.engine.config import TrainConfig
from focaldet.engine.detect import same_size_batches
from focaldet.engine.detector import Detector
from focaldet.engine.loss_options import INVERSE, write_out
from focaldet.engine.spec import ModelSpec
from focaldet.evaluation.average_precision import METRICS, average_precision
from focaldet.evaluation.certainty import cross_fitted_bands
from focaldet.files import MAX_JSON, parse_json, read_text
from focaldet.models.backbone import freeze_batch_norm
from focaldet.records.run_files import Run
from focaldet.records.study import FORMAT, Bands, BandWidth, Cost, Line
from focaldet.records.study_details import Details, Moment, Photo
from focaldet.runtime.results import coco_results
from focaldet.study.boxes import page_boxes
from focaldet.study.deviations import DeviationMeasure, deciles, deviations
from focaldet.study.imbalance import LocationLosses, curves, imbalance, location_losses
from focaldet.study.ranking import RankingMeasure
from focaldet.study.scenes import scenes

IMBALANCE_PHOTOS = 32
"""Number of training photos, taken from the start and not augmented, for the class losses."""

SHOWN_PHOTOS = 8
"""Number of photos shown on the page, spread over the measured split."""

SHOWN_SCORE = 0.05
"""Lowest score of a box on the page."""

COVERAGE = 0.9
"""Coverage of the bands whose width is measured."""

NOT_OF_THE_RUN = ("out", "resume", "profile")
"""Options that do not affect the result."""


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The options that affect the result."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_OF_THE_RUN}
    if config.teacher is not None:  # a study may be moved
        settings["teacher"] = Path(config.teacher).name
    return settings


def measure(
    rung: str, config: TrainConfig, folder: DataFolder, split: str, diverged: str | None
) -> tuple[Line, Details]:
    """Measure a trained run.

    Args:
        rung: name of the rung.
        config: its configuration, with the run folder in ``out``.
        folder: the photos.
        split: the split to measure.
        diverged: the reason why training diverged, or ``None``.
    """
    run = Path(str(config.out))
    history = read_metrics(run)
    before = _losses_before(config, folder)
    line = Line(
        format=FORMAT,
        rung=rung,
        seed=config.seed,
        settings=settings_of(config),
        diverged=diverged,
        split=split,
        metrics=dict.fromkeys(METRICS),
        per_class=[],
        imbalance_start=imbalance(before),
        imbalance_end=None,
        ranking=None,
        deviations=None,
        bands=Bands(deviation=None, size=None),
        cost=cost(history),
    )
    details = Details(
        format=FORMAT,
        rung=rung,
        seed=config.seed,
        history=[moment(entry) for entry in history],
        curves_start=curves(before),
        curves_end=None,
        deciles=None,
        sharpest=[],
        most_ambiguous=[],
        photos=[],
    )
    if diverged is None:
        _measure_detector(line, details, Detector.load(run, calibrated=False, device="cpu"), config, folder)
    return line, details


def _measure_detector(
    line: Line, details: Details, detector: Detector, config: TrainConfig, folder: DataFolder
) -> None:
    """Fill in the measurements that need a detector."""
    spec = detector.spec
    dataset = DetectionDataset(folder.splits[line["split"]], spec.transform)
    truth = coco_truth(dataset.records, folder.class_names)
    ranking = RankingMeasure(detector.evaluation_postprocess().nms)
    width = DeviationMeasure()
    shown = set(spread_over(len(dataset), SHOWN_PHOTOS))
    results: list[dict[str, Any]] = []
    for index, scene in enumerate(scenes(detector, dataset)):
        results += coco_results(scene.image_id, scene.detections)
        ranking.add(scene)
        boxes = page_boxes(scene)
        width.add(scene, boxes)
        if index in shown:
            visible = [box for box in boxes if box["score"] >= SHOWN_SCORE]
            details["photos"].append(Photo(image_id=scene.image_id, boxes=visible))
    evaluation = average_precision(truth, results, max_detections=spec.postprocess.max_detections)
    line["metrics"] = evaluation.metrics
    line["per_class"] = evaluation.per_class  # type: ignore[typeddict-item]
    line["bands"] = bands(Run(Path(str(config.out)), truth=truth, predictions=results))
    line["ranking"] = ranking.result(truth, spec.postprocess.max_detections)
    if (sides := width.sides()) is not None:
        line["deviations"] = deviations(sides)
        details["deciles"] = deciles(sides)
        details["sharpest"], details["most_ambiguous"] = width.extremes()
    after = _losses_after(detector, config, folder)
    line["imbalance_end"], details["curves_end"] = imbalance(after), curves(after)


def bands(run: Run) -> Bands:
    """Width of the bands for 90 % of the detected objects, in both units."""
    measured: dict[str, BandWidth | None] = {"deviation": None, "size": None}
    for scale, reports in cross_fitted_bands(run).items():
        for row in reports:
            if row["promised"] == COVERAGE and row["box_count"]:
                covered = round(row["box_inside"] / row["box_count"], 6)
                measured[scale] = BandWidth(boxes=row["box_count"], covered=covered, width_px=row["box_width_px"])
    return Bands(deviation=measured["deviation"], size=measured["size"])


def _losses_before(config: TrainConfig, folder: DataFolder) -> LocationLosses:
    """Class losses at the first step: an untrained network, with batch statistics in its batch norms."""
    if config.alpha == INVERSE:
        config = replace(config, alpha=write_out(folder.splits["train"], folder.class_names))
    spec, net, method = first_detector(config, folder.class_names)
    net.train()
    if config.freeze_norm:
        freeze_batch_norm(net.backbone)
    return location_losses(
        net, method, loss_batches(spec, folder.splits["train"], config.images_per_step), offset=spec.offset
    )


def _losses_after(detector: Detector, config: TrainConfig, folder: DataFolder) -> LocationLosses:
    spec, method = detector.spec, detector.method
    batches = loss_batches(spec, folder.splits["train"], config.images_per_step, same_size=True)
    return location_losses(detector.net, method, batches, offset=spec.offset)


def loss_batches(spec: ModelSpec, records: Sequence[ImageRecord], most: int, *, same_size: bool = False) -> list[Batch]:
    """Batches of photos for the class losses; always the same, since they are not augmented.

    Args:
        most: photos in a batch.
        same_size: batches of photos of one size, so that no photo is padded; otherwise as in training.
    """
    dataset = DetectionDataset(records[:IMBALANCE_PHOTOS], spec.transform)
    in_order = [list(range(len(dataset)))[first : first + most] for first in range(0, len(dataset), most)]
    chosen = same_size_batches(dataset, most) if same_size else in_order
    batches = [[sample for i in indices if (sample := dataset.sample(i)) is not None] for indices in chosen]
    return [collate(samples) for samples in batches if samples]


def spread_over(count: int, most: int) -> list[int]:
    """At most ``most`` indices, evenly spread over ``range(count)``.

    >>> spread_over(10, 3), spread_over(2, 3)
    ([2, 5, 8], [0, 1])
    """
    parts = np.array_split(np.arange(count), min(count, most))
    return [int(part[len(part) // 2]) for part in parts]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; empty if the run stopped in its first epoch."""
    file = run / "metrics.jsonl"
    return [parse_json(line) for line in read_text(file, MAX_JSON).splitlines()] if file.exists() else []


def moment(entry: dict[str, Any]) -> Moment:
    """The fields of a ``metrics.jsonl`` line that the page needs."""
    val = entry["val"]
    return Moment(
        epoch=entry["epoch"],
        minutes=entry["minutes"],
        loss=entry["train"]["loss"],
        AP=None if val is None else val["AP"],
    )


def cost(history: list[dict[str, Any]]) -> Cost:
    """Cost of the training, from the lines of ``metrics.jsonl``.

    >>> lines = [{"epoch": e, "step": 2 * e + 2, "minutes": e + 1.0, "train": {"loss": 3.0, "class": 1.0, "box": 2.0},
    ...           "seconds": {"load": 0.1 + e}, "images_per_second": 4.0, "peak_memory_mb": 7.0} for e in range(2)]
    >>> summed = cost(lines)
    >>> summed["seconds"], summed["steps"], summed["terms_last"]
    ({'load': 0.6}, 4, {'class': 1.0, 'box': 2.0})
    """
    steps = [end - begin for begin, end in pairwise([0, *(entry["step"] for entry in history)])]
    total = max(sum(steps), 1)

    def mean(values: list[float]) -> float:
        return float(f"{sum(n * value for n, value in zip(steps, values, strict=True)) / total:.6g}")

    parts = dict.fromkeys(name for entry in history for name in entry["seconds"])
    nothing: dict[str, Any] = {"minutes": 0.0, "step": 0, "train": {}}
    first, last = (history[0], history[-1]) if history else (nothing, nothing)
    return Cost(
        minutes=last["minutes"],
        epochs=len(history),
        steps=last["step"],
        seconds={part: mean([entry["seconds"].get(part, 0.0) for entry in history]) for part in parts},
        images_per_second=mean([entry["images_per_second"] for entry in history]),
        peak_memory_mb=max((entry["peak_memory_mb"] for entry in history), default=None),
        terms_first=_terms(first),
        terms_last=_terms(last),
    )


def _terms(entry: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in entry["train"].items() if name != "loss"}
