"""From the outputs of an exported model to the detections of each image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focaldet.runtime.card import ModelCard
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.nms import batched_nms

OutputArrays = dict[str, NDArray[Any]]
"""Outputs of a batch, by name."""

Runner = Callable[[NDArray[Any]], OutputArrays]
"""Runs a model: images ``(B, h, w, 3)`` to outputs."""


def check_outputs(outputs: OutputArrays, images: int, card: ModelCard) -> None:
    """Raise ValueError unless the outputs of a batch are valid: an exported file may come from anywhere.

    Args:
        images: number of images in the batch.
        card: card of a model with ``outputs`` ``"detections"`` or ``"sites"``.
    """
    boxes, scores = outputs["boxes_xyxy"], outputs["scores"]
    detections = card.outputs == "detections"
    most = boxes.shape[1] if boxes.ndim == 3 else 0
    expected = {
        "boxes_xyxy": (images, most, 4),
        "scores": (images, most) if detections else (images, most, len(card.class_names)),
        "side_std_px": (images, most, 4),
        "labels": (images, most),
        "count": (images,),
    }
    for name, shape in expected.items():
        if name in outputs and outputs[name].shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {outputs[name].shape}")
    if not (np.isfinite(boxes).all() and (boxes[..., 2:] >= boxes[..., :2]).all()):
        raise ValueError("boxes_xyxy: a side is not a number, or beyond the opposite side")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores: expected values in [0, 1]")
    deviations = outputs.get("side_std_px", np.zeros(0))
    if not (np.isfinite(deviations).all() and (deviations >= 0).all()):
        raise ValueError("side_std_px: expected numbers >= 0")
    if detections:
        count, labels = outputs["count"], outputs["labels"]
        if not ((count >= 0) & (count <= most)).all():
            raise ValueError(f"count: expected values in [0, {most}]")
        there = np.arange(most) < count[:, None]
        if not ((labels >= 0) & (labels < len(card.class_names)))[there].all():
            raise ValueError(f"labels: expected values in [0, {len(card.class_names)})")


def read_outputs(outputs: OutputArrays, index: int, card: ModelCard) -> DetectionArrays:
    """The detections of one image of a batch, in pixels of the network input.

    Args:
        index: index of the image.
        card: card of a model with ``outputs`` ``"detections"`` or ``"sites"``.
    """
    boxes, scores, stds = outputs["boxes_xyxy"][index], outputs["scores"][index], outputs.get("side_std_px")
    stds = None if stds is None else stds[index]
    if card.outputs == "detections":
        best = slice(min(int(outputs["count"][index]), card.max_detections))
        return DetectionArrays(
            boxes[best], scores[best], outputs["labels"][index][best], None if stds is None else stds[best]
        )
    locations, labels = np.nonzero(scores)  # scores below the threshold are 0
    iou = 1.0 if card.nms_iou is None else card.nms_iou  # no IoU exceeds 1
    kept = batched_nms(boxes[locations], scores[locations, labels], labels, iou, card.max_detections)
    locations, labels = locations[kept], labels[kept]
    return DetectionArrays(
        boxes[locations], scores[locations, labels], labels, None if stds is None else stds[locations]
    )
