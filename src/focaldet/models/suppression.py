"""Class-aware non-maximum suppression."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from focaldet import kernels
from focaldet.kernels import ops


def suppress_by_class(
    boxes_xyxy: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], labels: Int64[Tensor, " N"], iou: float, most: int
) -> Int64[Tensor, " M"]:
    """Indices of the best boxes that overlap no better one of their class.

    By the C++ kernel where it is, else by torchvision's ``batched_nms``: the same boxes. Of equal scores the first is
    the better.

    Args:
        boxes_xyxy: pixels.
        scores: in [0, 1].
        labels: of the classes.
        iou: more than this overlaps.
        most: of the boxes that stay.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]])
    >>> suppress_by_class(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]), 0.5, 100)
    tensor([0, 2])
    """
    keep: Tensor
    if boxes_xyxy.device.type == "cpu" and boxes_xyxy.dtype == torch.float32 and kernels.available()["cpu"] is None:
        keep = ops.suppress_by_class(boxes_xyxy.contiguous(), scores.contiguous(), labels, iou, most)
    else:
        keep = batched_nms(boxes_xyxy, scores, labels, iou).sort().values  # its order of equal scores is any
        keep = keep[scores[keep].argsort(descending=True, stable=True)][:most]
    return keep
