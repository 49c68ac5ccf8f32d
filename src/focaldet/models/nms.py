"""Class-aware non-maximum suppression."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision import ops as torchvision_ops

from focaldet import kernels
from focaldet.kernels import ops


def batched_nms(
    boxes_xyxy: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    labels: Int64[Tensor, " N"],
    iou_threshold: float,
    max_detections: int,
) -> Int64[Tensor, " M"]:
    """Indices of the boxes that remain after NMS within each class, best first.

    Uses the C++ kernel if available, otherwise torchvision's ``batched_nms``, with the same result. Of equal scores,
    the first is better.

    Args:
        boxes_xyxy: pixels.
        scores: in [0, 1].
        labels: class indices.
        iou_threshold: a box is dropped if its IoU with a better one of its class exceeds this.
        max_detections: largest number of boxes returned.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]])
    >>> batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]), 0.5, 100)
    tensor([0, 2])
    """
    keep: Tensor
    if boxes_xyxy.device.type == "cpu" and boxes_xyxy.dtype == torch.float32 and kernels.available()["cpu"] is None:
        keep = ops.suppress_by_class(
            boxes_xyxy.contiguous(), scores.contiguous(), labels, iou_threshold, max_detections
        )
    else:
        keep = torchvision_ops.batched_nms(boxes_xyxy, scores, labels, iou_threshold)
        keep = keep.sort().values  # torchvision's order of equal scores is undefined
        keep = keep[scores[keep].argsort(descending=True, stable=True)][:max_detections]
    return keep
