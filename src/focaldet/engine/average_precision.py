"""Average precision as COCO defines it (faster-coco-eval), and the files that show it."""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from focaldet.boxes.formats import clip_boxes
from focaldet.data.batching import DetectionDataset, Sample, collate
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import EvalTransform
from focaldet.models.detector import DenseDetector
from focaldet.models.postprocess import PostProcess
from focaldet.runtime.results import coco_results
from focaldet.structures import Detections

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
    """Args:
    metrics: of ``METRICS``; ``None`` where there is nothing to measure (no object of that size).
    per_class: for each class its name, number of objects, AP, AP50, AP75.
    """

    metrics: dict[str, float | None]
    per_class: list[dict[str, Any]]


def average_precision(truth: dict[str, Any], results: list[dict[str, Any]]) -> Evaluation:
    """AP of results against a truth. An image without detections counts like any other.

    Args:
        truth: a COCO data set.
        results: entries of a COCO results file.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        # Copies: the evaluator adds keys to what it is given.
        gt = COCO(truth | {"annotations": [dict(entry) for entry in truth["annotations"]]})
        nothing = truth | {"annotations": []}
        found = gt.loadRes([dict(entry) for entry in results]) if results else COCO(nothing)
        evaluator = COCOeval_faster(gt, found, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats, precision = evaluator.stats, evaluator.eval["precision"]
    counts = np.bincount([a["category_id"] for a in truth["annotations"] if not a["iscrowd"]], minlength=1)
    per_class: list[dict[str, Any]] = []
    for index, category in enumerate(sorted(truth["categories"], key=lambda c: c["id"])):
        objects = int(counts[category["id"]]) if category["id"] < len(counts) else 0
        values = precision[:, :, index, 0, 2]
        per_class.append(
            {
                "name": category["name"],
                "objects": objects,
                "AP": _measured(values, objects),
                "AP50": _measured(values[0], objects),
                "AP75": _measured(values[5], objects),
            }
        )
    metrics = {name: None if value < 0 else float(value) for name, value in zip(METRICS, stats, strict=False)}
    return Evaluation(metrics, per_class)


def _measured(precision: Any, objects: int) -> float | None:
    return float(np.mean(precision)) if objects else None


def detect_records(
    net: DenseDetector,
    postprocess: PostProcess,
    dataset: DetectionDataset,
    *,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """COCO results of a data set's images, boxes in pixels of the photos. Image i has id i + 1.

    A photo that cannot be read has no detections; ``dataset.newly_unreadable`` names it.

    Args:
        dataset: with an ``EvalTransform``.
        progress: called with the number of images done.
    """
    assert isinstance(dataset.transform, EvalTransform)
    if net.pad_to > 1:
        batch = 1  # what is padded would depend on the batch's other images
    training = net.training
    net.eval()
    results = []
    for first in range(0, len(dataset), batch):
        last = min(first + batch, len(dataset))
        samples = [sample for index in range(first, last) if (sample := dataset.sample(index)) is not None]
        if samples:
            results += _detect(net, postprocess, dataset.records, samples)
        if progress is not None:
            progress(last)
    net.train(training)
    return results


def _detect(
    net: DenseDetector, postprocess: PostProcess, records: Sequence[ImageRecord], samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    images, valid_sizes, _ = collate(samples)
    with torch.no_grad():
        outputs = net(images.to(net.mean.device))
    results = []
    found = postprocess(outputs, [(int(h), int(w)) for h, w in valid_sizes.tolist()])
    for sample, size, detections in zip(samples, valid_sizes.tolist(), found, strict=True):
        record = records[sample.index]
        photo = (record.height, record.width)
        detections = to_photo(detections, size, photo, last_pixel=postprocess.reading.last_pixel)
        results += coco_results(sample.index + 1, detections)
    return results


def without_detections(problem: str) -> str:
    """The line about a photo that cannot be read, of ``dataset.newly_unreadable``."""
    return f"{problem}; AP counts it as a photo without detections"


def to_photo(
    detections: Detections, seen: Sequence[int], photo: Sequence[int], *, last_pixel: bool = False
) -> Detections:
    """Detections in the pixels of the photo, of detections in the pixels that the network saw.

    Args:
        seen, photo: (height, width).
        last_pixel: the boxes name the last pixel in them, see ``Reading``.
    """
    scale = torch.tensor([photo[1] / seen[1], photo[0] / seen[0]]).repeat(2)
    boxes, deviation = detections.boxes_xyxy.cpu() * scale, detections.side_std_px
    if last_pixel:
        boxes = clip_boxes(boxes + torch.tensor([0.0, 0.0, 1.0, 1.0]), photo[0], photo[1])
    return Detections(
        boxes,
        detections.scores.cpu(),
        detections.labels.cpu(),
        None if deviation is None else deviation.cpu() * scale,
    )
