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
    """Indices of the best boxes that overlap no better one of their class.

    By the C++ kernel where it is, else by torchvision's ``batched_nms``: the same boxes. Of equal scores the first is
    the better.

    Args:
        boxes_xyxy: pixels.
        scores: in [0, 1].
        labels: of the classes.
        iou_threshold: more than this overlaps.
        max_detections: of the boxes that stay.

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
        keep = keep.sort().values  # its order of equal scores is any
        keep = keep[scores[keep].argsort(descending=True, stable=True)][:max_detections]
    return keep
