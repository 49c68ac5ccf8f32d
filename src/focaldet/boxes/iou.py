"""Intersection over union of boxes: of N pairs (``paired_iou``) or of all N x M pairs (``pairwise_iou``).

A box without area has IoU 0 with every box, not NaN.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def box_area(boxes_xyxy: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Width times height; 0 if the corners are in the wrong order.

    >>> box_area(torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 0.0, 0.0, 3.0]]))
    tensor([6., 0.])
    """
    sides = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def paired_iou(boxes_xyxy: Float[Tensor, "*#N 4"], other_xyxy: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N"]:
    """IoU of box i with other box i; shapes broadcast.

    >>> paired_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([0.3333])
    """
    sides = torch.minimum(boxes_xyxy[..., 2:], other_xyxy[..., 2:]) - torch.maximum(
        boxes_xyxy[..., :2], other_xyxy[..., :2]
    )
    sides = sides.clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = box_area(boxes_xyxy) + box_area(other_xyxy) - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def paired_diou(boxes_xyxy: Float[Tensor, "N 4"], other_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """IoU of box i with other box i, minus the squared distance of their centres divided by the squared diagonal of the
    smallest box around both (arXiv 1911.08287).

    >>> paired_diou(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]]))  # -9 / 17
    tensor([-0.5294])
    """
    low, high = torch.minimum(boxes_xyxy, other_xyxy)[:, :2], torch.maximum(boxes_xyxy, other_xyxy)[:, 2:]
    difference = boxes_xyxy - other_xyxy
    offset = (difference[:, :2] + difference[:, 2:]) / 2
    diagonal = (high - low).square().sum(-1).clamp(min=torch.finfo(low.dtype).tiny)
    return paired_iou(boxes_xyxy, other_xyxy) - offset.square().sum(-1) / diagonal


def pairwise_iou(boxes_xyxy: Float[Tensor, "N 4"], other_xyxy: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """IoU of every box with every other box. Takes memory for N x M boxes.

    >>> pairwise_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, 2.0]]))
    tensor([[0.3333, 1.0000]])
    """
    return paired_iou(boxes_xyxy[:, None], other_xyxy[None, :])
