"""Sentences, figures and table rows about a run, for its pages."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from focaldet.evaluation.matching import ImageResult
from focaldet.records.run_files import Run, mapping, metric, number, rows
from focaldet.runtime.results import COCO_DETECTIONS, named_limit

METRICS = {
    "AP": "IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "AP_small": "objects under 32² px",
    "AP_medium": "32² to 96² px",
    "AP_large": "over 96² px",
    "AR1": "recall, 1 box per image",
    "AR10": "recall, 10 boxes per image",
    "AR100": "recall, 100 boxes per image",
}
"""COCO metric -> the IoU thresholds, sizes or boxes that it covers."""

_METHOD_NAMES = {
    "rtmdet": "RTMDet",
    "tood": "TOOD",
    "gfl": "GFL",
    "gflv2": "GFLv2",
    "atss": "ATSS",
    "fcos": "FCOS",
    "retinanet": "RetinaNet",
}


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and missed objects at one confidence threshold."""

    found: int
    false: int
    missed: int

    @property
    def recall(self) -> float | None:
        """Share of the objects that were detected; None without objects."""
        return self.found / (self.found + self.missed) if self.found + self.missed else None

    @property
    def precision(self) -> float | None:
        """Share of the boxes that match an object; None without boxes."""
        return self.found / (self.found + self.false) if self.found + self.false else None


def total_counts(results: Sequence[ImageResult], threshold: float) -> Counts:
    found, false, missed = np.array([r.counts(threshold) for r in results], np.int64).reshape(-1, 3).sum(axis=0)
    return Counts(int(found), int(false), int(missed))


def method_name(run: Run) -> str:
    """The name of the method as in its paper, or an empty string."""
    method = str(run.model.get("method") or run.config.get("method") or "")
    return _METHOD_NAMES.get(method, method)


def result_sentence(run: Run, counts: Counts | None, threshold: float) -> str:
    """The run's result in one sentence."""
    backbone, size = run.model.get("backbone"), run.model.get("size")
    details = ", ".join(str(part) for part in (backbone, f"{size} px" if size else None) if part)
    who = f"{f'This {method_name(run)}' if method_name(run) else 'This'} detector{f' ({details})' if details else ''}"
    ap, ap50 = (metric(mapping(run.evaluation.get("metrics")).get(key)) for key in ("AP", "AP50"))
    images, split = run.evaluation.get("images"), run.evaluation.get("split")
    photos = f"{_count(images)} photo{'s' * (images != 1)}"
    where = f"on the {photos} of the {split} split" if images and split else "on the evaluated photos"
    if ap is None and run.evaluation.get("objects") == 0:
        return f"{who} has been evaluated {where}. There is no AP, because no objects are labelled there."
    if ap is None:
        done = f" It has trained for {len(run.metrics)} epoch{'s' * (len(run.metrics) != 1)}." if run.metrics else ""
        return f"{who} has not been evaluated yet.{done}"
    sentence = f"{who} reaches an AP of {ap:.3f}" + (f" (AP50 {ap50:.3f})" if ap50 is not None else "") + f" {where}"
    sentence += named_limit(detection_limit(run))
    if counts is None or not counts.found + counts.missed:
        return sentence + "."
    return (
        f"{sentence}. At a confidence threshold of {threshold:.2f}, it detects {counts.found:,} of "
        f"{counts.found + counts.missed:,} objects, and {counts.false:,} of its {counts.found + counts.false:,} boxes "
        "are false positives."
    )


def detection_limit(run: Run) -> int:
    """Number of best detections per photo that count in AP."""
    return int(number(run.evaluation.get("max_detections")) or COCO_DETECTIONS)


def metric_rows(run: Run) -> list[tuple[str, str, float | None]]:
    """(name, range, value or None) of every metric in the evaluation; COCO's AP last, if it differs."""
    metrics, coco = (mapping(run.evaluation.get(key)) for key in ("metrics", "coco_metrics"))
    limit = detection_limit(run)
    over_all = METRICS | {f"AR{limit}": f"recall, {limit} boxes per image"}
    table = [
        (name.replace("_", " "), over, metric(metrics[name])) for name, over in over_all.items() if name in metrics
    ]
    beside = [(name, METRICS[name], metric(coco[name])) for name in ("AP", "AP50", "AP75") if name in coco]
    groups = {name: mapping(row) for name, row in mapping(run.evaluation.get("by_frequency")).items()}
    table += [
        (f"AP, {name}", f"{name} classes in training ({number(row.get('classes')) or 0:.0f})", metric(row.get("AP")))
        for name, row in groups.items()
    ]
    return table + [
        (f"COCO's {name}", f"{over}, at most {COCO_DETECTIONS} detections per photo", value)
        for name, over, value in beside
    ]


def class_rows(run: Run, results: Sequence[ImageResult], threshold: float) -> list[dict[str, Any]]:
    """One row per class: objects, AP, AP50, AP75, and recall and precision at the threshold."""
    names = run.class_names
    table = []
    for row in rows(run.evaluation.get("per_class")):
        name = str(row.get("name"))
        counts = _class_counts(results, names.index(name), threshold) if results and name in names else None
        values = {key: metric(row.get(key)) for key in ("AP", "AP50", "AP75")}
        table.append({"name": name, "objects": number(row.get("objects")), "counts": counts, **values})
    return table


def _class_counts(results: Sequence[ImageResult], label: int, threshold: float) -> Counts:
    found = false = objects = 0
    for r in results:
        kept = r.matched_gt[(r.labels == label) & (r.scores >= threshold)]
        found += int((kept >= 0).sum())
        false += int((kept == -1).sum())
        objects += int((r.gt_labels == label).sum())
    return Counts(found, false, objects - found)


def step_shares(run: Run) -> list[tuple[str, float, float]]:
    """(part, milliseconds, share) of a training step, averaged over the epochs with measurements."""
    measured = [mapping(line.get("seconds")) for line in run.metrics if mapping(line.get("seconds"))]
    if not measured:
        return []
    names = dict.fromkeys(str(name) for line in measured for name in line)
    seconds = {name: float(np.mean([max(number(line.get(name)) or 0.0, 0.0) for line in measured])) for name in names}
    total = sum(seconds.values())
    return [(name, 1000 * s, s / total) for name, s in seconds.items()] if total > 0 else []


def training_rows(run: Run) -> list[tuple[str, str]]:
    """(name, value) pairs about the whole training, from metrics.jsonl."""
    if not run.metrics:
        return []
    last = run.metrics[-1]
    speeds = [s for s in (number(line.get("images_per_second")) for line in run.metrics) if s is not None]
    validated = [(metric(mapping(line.get("val")).get("AP")), line.get("epoch")) for line in run.metrics]
    best = max(((ap, epoch) for ap, epoch in validated if ap is not None), default=None, key=lambda pair: pair[0])
    facts = [
        ("epochs", f"{len(run.metrics):,}"),
        ("steps", _count(last.get("step"))),
        ("minutes", _decimal(last.get("minutes"), 1)),
        ("images per second", f"{np.mean(speeds):.1f}" if speeds else ""),
        ("positives per step, last epoch", _decimal(last.get("num_pos"), 1)),
        ("best AP on val", f"{best[0]:.3f}, epoch {best[1]}" if best else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _count(value: Any) -> str:
    value = number(value)
    return "" if value is None else f"{int(value):,}"


def _decimal(value: Any, digits: int) -> str:
    value = number(value)
    return "" if value is None else f"{value:.{digits}f}"


def flat_settings(config: Any, prefix: str = "") -> dict[str, str]:
    """Flatten a nested mapping to one level: ``{"data.root": "photos"}``.

    >>> flat_settings({"size": 320, "optim": {"lr": 0.001, "betas": [0.9, 0.99]}})
    {'size': '320', 'optim.lr': '0.001', 'optim.betas': '[0.9, 0.99]'}
    """
    if not isinstance(config, dict):
        return {prefix: config if isinstance(config, str) else json.dumps(config, default=str)}
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= flat_settings(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def commands(run: Run) -> list[str]:
    """Shell commands that repeat the training and the evaluation."""
    folder = str(run.path)
    data = run.config.get("data")
    data = shlex.quote(data) if isinstance(data, str) else "DIR"
    split = run.evaluation.get("split")
    evaluate = f"focaldet eval {shlex.quote(folder)} --data {data}"
    return [
        f"focaldet train --config {shlex.quote(str(run.path / 'config.yaml'))}",
        evaluate + (f" --split {shlex.quote(str(split))}" if split else ""),
    ]
