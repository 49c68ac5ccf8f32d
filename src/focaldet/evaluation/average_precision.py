"""Average precision as defined by COCO, computed by faster-coco-eval."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from focaldet.runtime.results import COCO_DETECTIONS

EVALUATION_SCORE = 0.02
"""Lowest score of a detection that counts in AP. It is below the display threshold to keep the tail of the curve."""

METRICS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
"""COCO's twelve metrics in its order. Small, medium and large are areas below 32², below 96² and above, in pixels of
the photo."""


@dataclass(frozen=True)
class Evaluation:
    """Average precision of a set of detections.

    Args:
        metrics: value of each of ``METRICS``; ``None`` if there are no objects to measure it (of that size).
        per_class: name, number of objects, AP, AP50 and AP75 of each class.
        max_detections: number of best detections per photo that count in both.
        coco_metrics: ``METRICS`` with COCO's limit of detections, if ``max_detections`` is larger.
    """

    metrics: dict[str, float | None]
    per_class: list[dict[str, Any]]
    max_detections: int = COCO_DETECTIONS
    coco_metrics: dict[str, float | None] | None = None


def average_precision(
    truth: dict[str, Any], results: list[dict[str, Any]], *, max_detections: int = COCO_DETECTIONS
) -> Evaluation:
    """Compute AP of detections against labels. Images without detections count too.

    Args:
        truth: COCO data set.
        results: entries of a COCO results file.
        max_detections: number of best detections per photo that count; at least COCO's 100, so that AP equals COCO's
            if there are no more. With more, ``metrics`` also has the recall at that number (``"AR500"``).
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth, results = _numbered(truth, results)
    limits = sorted({1, 10, COCO_DETECTIONS, max(max_detections, COCO_DETECTIONS)})
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(truth)
        found = gt.loadRes(results) if results else COCO(truth | {"annotations": []})
        evaluator = COCOeval_faster(gt, found, "bbox")
        evaluator.params.maxDets = limits
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    metrics = _metrics(precision, recall, len(limits) - 1)
    more = limits[-1] > COCO_DETECTIONS
    if more:
        metrics[f"AR{limits[-1]}"] = _mean(recall[:, :, 0, -1])
    counts = np.bincount([a["category_id"] for a in truth["annotations"] if not a["iscrowd"]], minlength=1)
    per_class: list[dict[str, Any]] = []
    for index, category in enumerate(truth["categories"]):
        objects = int(counts[category["id"]]) if category["id"] < len(counts) else 0
        values = precision[:, :, index, 0, -1]
        per_class.append(
            {
                "name": category["name"],
                "objects": objects,
                "AP": _measured(values, objects),
                "AP50": _measured(values[0], objects),
                "AP75": _measured(values[5], objects),
            }
        )
    coco = _metrics(precision, recall, limits.index(COCO_DETECTIONS)) if more else None
    return Evaluation(metrics, per_class, limits[-1], coco)


def by_frequency(per_class: list[dict[str, Any]], counts: dict[str, int]) -> dict[str, dict[str, Any]]:
    """AP of frequent, common and rare classes: group -> number of classes and mean AP.

    A class is rare with less than a tenth of the objects of the most frequent one, common with less than a third, else
    frequent. A group without a class is left out. A data set with frequent classes only has no groups.

    Args:
        per_class: rows of an `Evaluation`.
        counts: class -> number of its training objects.

    >>> rows = [{"name": "a", "AP": 0.5}, {"name": "b", "AP": 0.25}, {"name": "c", "AP": None}]
    >>> by_frequency(rows, {"a": 100, "b": 9, "c": 90})
    {'frequent': {'classes': 2, 'AP': 0.5}, 'rare': {'classes': 1, 'AP': 0.25}}
    """
    most = max(counts.values(), default=0)
    groups: dict[str, list[float | None]] = {"frequent": [], "common": [], "rare": []}
    for row in per_class:
        count = counts.get(row["name"], 0)
        group = "rare" if 10 * count < most else "common" if 3 * count < most else "frequent"
        groups[group].append(row["AP"])
    if not groups["common"] and not groups["rare"]:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for group, values in groups.items():
        measured = [value for value in values if value is not None]
        if values:
            found[group] = {"classes": len(values), "AP": float(np.mean(measured)) if measured else None}
    return found


def _numbered(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Copy both with consecutive image and category ids, which the evaluator needs.

    Images keep the order of their ids, as in pycocotools: the order decides between equal scores.
    """
    ids = sorted((image["id"] for image in truth["images"]), key=lambda key: (isinstance(key, str), key))
    image = {key: number for number, key in enumerate(ids, 1)}
    category = {entry["id"]: number for number, entry in enumerate(truth["categories"], 1)}

    def numbered(entry: dict[str, Any]) -> dict[str, Any]:
        return entry | {"image_id": image[entry["image_id"]], "category_id": category[entry["category_id"]]}

    return truth | {
        "images": [entry | {"id": image[entry["id"]]} for entry in truth["images"]],
        "categories": [entry | {"id": category[entry["id"]]} for entry in truth["categories"]],
        "annotations": [numbered(entry) for entry in truth["annotations"]],
    }, [numbered(entry) for entry in results]


def _metrics(precision: Any, recall: Any, limit: int) -> dict[str, float | None]:
    """COCO's metrics by name.

    Args:
        precision, recall: the evaluator's arrays ``(T, R, K, 4, M)`` and ``(T, K, 4, M)``: IoU thresholds, recalls,
            classes, sizes, detection limits.
        limit: index of the detection limit for all metrics except AR1, AR10 and AR100.
    """
    values = [precision[..., 0, limit], precision[0, ..., 0, limit], precision[5, ..., 0, limit]]
    values += [precision[..., size, limit] for size in (1, 2, 3)]
    values += [recall[..., 0, index] for index in (0, 1, 2)]
    values += [recall[..., size, limit] for size in (1, 2, 3)]
    return {name: _mean(part) for name, part in zip(METRICS, values, strict=True)}


def _mean(values: Any) -> float | None:
    """Mean over the classes with objects; ``None`` if there are none."""
    there = values[values > -1]
    return float(np.mean(there)) if there.size else None


def _measured(precision: Any, objects: int) -> float | None:
    return float(np.mean(precision)) if objects else None
