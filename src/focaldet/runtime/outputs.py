"""From what an exported model gives to the objects of each image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focaldet.runtime.card import ModelCard
from focaldet.runtime.model import Found
from focaldet.runtime.suppression import suppress

OutputArrays = dict[str, NDArray[Any]]
"""The outputs of a batch by name."""

Runner = Callable[[NDArray[Any]], OutputArrays]
"""Images ``(B, h, w, 3)`` to these."""


def read_outputs(outputs: OutputArrays, index: int, card: ModelCard) -> Found:
    """The objects of one image of the batch, in pixels of what the network saw.

    Args:
        index: of the image.
        card: of a model with ``outputs`` ``"detections"`` or ``"sites"``.
    """
    boxes, scores, stds = outputs["boxes_xyxy"][index], outputs["scores"][index], outputs.get("side_std_px")
    stds = None if stds is None else stds[index]
    if card.outputs == "detections":
        best = slice(min(int(outputs["count"][index]), card.max_detections))
        return Found(boxes[best], scores[best], outputs["labels"][index][best], None if stds is None else stds[best])
    sites, labels = np.nonzero(scores)  # those that do not pass the threshold are 0
    iou = 1.0 if card.nms_iou is None else card.nms_iou  # nothing overlaps by more
    kept = suppress(boxes[sites], scores[sites, labels], labels, iou, card.max_detections)
    sites, labels = sites[kept], labels[kept]
    return Found(boxes[sites], scores[sites, labels], labels, None if stds is None else stds[sites])
