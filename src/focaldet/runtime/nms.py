"""Non-maximum suppression in NumPy, for models exported without it."""

import numpy as np
from numpy.typing import NDArray


def batched_nms(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    iou_threshold: float,
    max_detections: int,
) -> NDArray[np.int64]:
    """Indices of the boxes that remain after NMS within each class, best first.

    Args:
        boxes_xyxy: ``(N, 4)``.
        scores, labels: ``(N,)``; of equal scores, the first is better.
        iou_threshold: a box is dropped if its IoU with a better one of its class exceeds this.
        max_detections: largest number of boxes returned.

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]], np.float32)
    >>> batched_nms(boxes, np.array([0.5, 0.9, 0.2], np.float32), np.zeros(3, np.int64), 0.6, 100)
    array([1, 2])
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    kept: list[int] = []
    while len(order) and len(kept) < max_detections:
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = boxes_xyxy[best, :2], boxes_xyxy[best, 2:]
        sides = np.minimum(boxes_xyxy[order, 2:], high) - np.maximum(boxes_xyxy[order, :2], low)
        shared = np.prod(np.maximum(sides, 0), axis=1)
        whole = areas[order] + areas[best] - shared
        # Same operations and precision as torchvision, so that an IoU at the threshold compares the same.
        overlaps = (
            np.divide(shared, whole, out=np.zeros_like(whole), where=whole > 0).astype(np.float64) > iou_threshold
        )
        order = order[~overlaps | (labels[order] != labels[best])]
    return np.array(kept, np.int64)
