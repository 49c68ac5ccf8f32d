"""IoU and GIoU losses of paired boxes (GIoU: Rezatofighi et al., CVPR 2019, arXiv 1902.09630)."""

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-7
"""Added to every denominator, so that boxes without area give finite values and gradients."""


def _intersection_and_union(boxes_xyxy: Tensor, target_boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).unbind(-1)
    target_size = (target_boxes_xyxy[..., 2:] - target_boxes_xyxy[..., :2]).unbind(-1)
    low = torch.maximum(boxes_xyxy[..., :2], target_boxes_xyxy[..., :2])
    high = torch.minimum(boxes_xyxy[..., 2:], target_boxes_xyxy[..., 2:])
    common = (high - low).clamp(min=0).unbind(-1)
    intersection = common[0] * common[1]
    return intersection, size[0] * size[1] + target_size[0] * target_size[1] - intersection


def iou_loss(boxes_xyxy: Float[Tensor, "... 4"], target_boxes_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """``1 - IoU`` of each pair of boxes.

    Args:
        boxes_xyxy: ``(..., 4)``, ``x1 <= x2`` and ``y1 <= y2``, any unit.
        target_boxes_xyxy: the same shape and unit.

    Returns:
        ``(...)`` in ``[0, 1]``; its gradient is zero for boxes that do not touch.

    Example:
        >>> iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))  # 2 / 6
        tensor([0.6667])
    """
    intersection, union = _intersection_and_union(boxes_xyxy, target_boxes_xyxy)
    return 1 - intersection / (union + EPS)


def giou_loss(boxes_xyxy: Float[Tensor, "... 4"], target_boxes_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """``1 - GIoU`` of each pair: ``1 - I / U + (H - U) / H``, H the area of the smallest box around both.

    Args:
        boxes_xyxy: ``(..., 4)``, ``x1 <= x2`` and ``y1 <= y2``, any unit.
        target_boxes_xyxy: the same shape and unit.

    Returns:
        ``(...)`` in ``[0, 2]``; boxes that do not touch are pulled together.

    Example:
        >>> giou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))  # 1 + (4 - 2) / 4
        tensor([1.5000])
    """
    intersection, union = _intersection_and_union(boxes_xyxy, target_boxes_xyxy)
    low = torch.minimum(boxes_xyxy[..., :2], target_boxes_xyxy[..., :2])
    high = torch.maximum(boxes_xyxy[..., 2:], target_boxes_xyxy[..., 2:])
    hull = (high - low).prod(-1)
    return 1 - intersection / (union + EPS) + (hull - union) / (hull + EPS)
