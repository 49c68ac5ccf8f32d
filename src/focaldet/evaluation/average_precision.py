"""Average precision as COCO defines it, by faster-coco-eval."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from focaldet.runtime.results import COCO_DETECTIONS

EVALUATION_SCORE = 0.02
"""Least score of a detection that counts in AP: below the one for looking at, so that the curve has its tail."""

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
"""COCO's twelve numbers, in its order. Sizes are areas below 32², up to 96², above, in pixels of the photo."""


@dataclass(frozen=True)
class Evaluation:
    """AP of some detections.

    Args:
        metrics: of ``METRICS``; ``None`` where there is nothing to measure (no object of that size).
        per_class: for each class its name, number of objects, AP, AP50, AP75.
        max_detections: best detections of a photo that count in both.
        coco_metrics: ``METRICS`` as COCO defines them, where that is by fewer detections than ``metrics``.
    """

    metrics: dict[str, float | None]
    per_class: list[dict[str, Any]]
    max_detections: int = COCO_DETECTIONS
    coco_metrics: dict[str, float | None] | None = None


def average_precision(
    truth: dict[str, Any], results: list[dict[str, Any]], *, max_detections: int = COCO_DETECTIONS
) -> Evaluation:
    """AP of results against a truth. An image without detections counts like any other.

    Args:
        truth: a COCO data set.
        results: entries of a COCO results file.
        max_detections: best detections of a photo that count. Never fewer than COCO's 100, so that AP is COCO's
            wherever a detector finds no more. With more, ``metrics`` has recall at so many too (``"AR500"``).
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


def _numbered(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Copies of both whose ids of images and categories are running numbers, as the evaluator wants them.

    Images keep the order of their ids, in which pycocotools takes them: it decides between equal scores.
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
    """COCO's numbers.

    Args:
        precision, recall: of the evaluator, ``(T, R, K, 4, M)`` and ``(T, K, 4, M)``: IoU thresholds, recalls, classes,
            sizes, limits of detections.
        limit: index of the limit for all numbers but AR1, AR10 and AR100.
    """
    values = [precision[..., 0, limit], precision[0, ..., 0, limit], precision[5, ..., 0, limit]]
    values += [precision[..., size, limit] for size in (1, 2, 3)]
    values += [recall[..., 0, index] for index in (0, 1, 2)]
    values += [recall[..., size, limit] for size in (1, 2, 3)]
    return {name: _mean(part) for name, part in zip(METRICS, values, strict=True)}


def _mean(values: Any) -> float | None:
    """Mean over the classes that have an object; ``None`` when none has."""
    there = values[values > -1]
    return float(np.mean(there)) if there.size else None


def _measured(precision: Any, objects: int) -> float | None:
    return float(np.mean(precision)) if objects else None
