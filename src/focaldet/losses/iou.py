"""IoU losses of paired boxes.

GIoU: Rezatofighi et al., CVPR 2019, arXiv 1902.09630. DIoU and CIoU: Zheng et al., AAAI 2020, arXiv 1911.08287. EIoU:
Zhang et al., arXiv 2101.08158. SIoU: Gevorgyan, arXiv 2205.12740.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-7
"""Added to every denominator, so that boxes without area give finite values and gradients."""


def _hull_sides(boxes_xyxy: Tensor, target_boxes_xyxy: Tensor) -> Tensor:
    """Width and height ``(..., 2)`` of the smallest box around both."""
    low = torch.minimum(boxes_xyxy[..., :2], target_boxes_xyxy[..., :2])
    return torch.maximum(boxes_xyxy[..., 2:], target_boxes_xyxy[..., 2:]) - low


def _sides(boxes_xyxy: Tensor) -> Tensor:
    return boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]


def _intersection_and_union(boxes_xyxy: Tensor, target_boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    size, target_size = _sides(boxes_xyxy).unbind(-1), _sides(target_boxes_xyxy).unbind(-1)
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
    hull = _hull_sides(boxes_xyxy, target_boxes_xyxy).prod(-1)
    return 1 - intersection / (union + EPS) + (hull - union) / (hull + EPS)


def _offset(boxes_xyxy: Tensor, target_boxes_xyxy: Tensor) -> Tensor:
    """Offset from the target's centre to the box's, ``(..., 2)``."""
    difference = boxes_xyxy - target_boxes_xyxy
    return (difference[..., :2] + difference[..., 2:]) / 2


def diou_loss(boxes_xyxy: Float[Tensor, "... 4"], target_boxes_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """``1 - IoU + d² / c²`` of each pair: d is the distance of the centres, c the diagonal of the box around both.

    Args:
        boxes_xyxy: ``(..., 4)``, ``x1 <= x2`` and ``y1 <= y2``, any unit.
        target_boxes_xyxy: the same shape and unit.

    Returns:
        ``(...)`` in ``[0, 2]``.

    Example:
        >>> diou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))  # 1 + 9 / 17
        tensor([1.5294])
    """
    distance = _offset(boxes_xyxy, target_boxes_xyxy).square().sum(-1)
    diagonal = _hull_sides(boxes_xyxy, target_boxes_xyxy).square().sum(-1)
    return iou_loss(boxes_xyxy, target_boxes_xyxy) + distance / (diagonal + EPS)


def ciou_loss(boxes_xyxy: Float[Tensor, "... 4"], target_boxes_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """``DIoU loss + α v`` of each pair, ``v = (2/π (atan w'/h' - atan w/h))²`` and ``α = v / (1 - IoU + v)``.

    α is a constant: no gradient flows through it. As in the paper and torchvision, it is not gated by the IoU;
    mmdetection gates it.

    Args:
        boxes_xyxy: ``(..., 4)``, ``x1 <= x2`` and ``y1 <= y2``, any unit.
        target_boxes_xyxy: the same shape and unit.

    Returns:
        ``(...)`` in ``[0, 3]``.

    Example:
        >>> ciou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))  # squares both
        tensor([1.5294])
    """
    (width, height), (own_width, own_height) = _sides(target_boxes_xyxy).unbind(-1), _sides(boxes_xyxy).unbind(-1)
    angle = torch.atan2(width, height + EPS) - torch.atan2(own_width, own_height + EPS)
    shape = (2 / math.pi * angle).square()
    alpha = (shape / (iou_loss(boxes_xyxy, target_boxes_xyxy) + shape + EPS)).detach()
    return diou_loss(boxes_xyxy, target_boxes_xyxy) + alpha * shape


def eiou_loss(boxes_xyxy: Float[Tensor, "... 4"], target_boxes_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """``DIoU loss + (w - w')² / W² + (h - h')² / H²`` of each pair, W and H the sides of the box around both.

    Args:
        boxes_xyxy: ``(..., 4)``, ``x1 <= x2`` and ``y1 <= y2``, any unit.
        target_boxes_xyxy: the same shape and unit.

    Returns:
        ``(...)`` in ``[0, 4]``.

    Example:
        >>> eiou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 2, 1]]))  # 1/2 + 1/20 + 1/4
        tensor([0.8000])
    """
    difference = (_sides(boxes_xyxy) - _sides(target_boxes_xyxy)).square()
    hull = _hull_sides(boxes_xyxy, target_boxes_xyxy).square()
    return diou_loss(boxes_xyxy, target_boxes_xyxy) + (difference / (hull + EPS)).sum(-1)


def siou_loss(boxes_xyxy: Float[Tensor, "... 4"], target_boxes_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """``1 - IoU + (Δ + Ω) / 2`` of each pair.

    With the offset (x, y) of the centres, W and H the sides of the box around both, and Λ = 2 |x y| / (x² + y²), the
    sine of twice the angle of the offset to the nearest axis:

    - distance ``Δ = 2 - exp((Λ - 2) (x/W)²) - exp((Λ - 2) (y/H)²)``;
    - shape ``Ω = (1 - exp(-|w - w'| / max(w, w')))⁴ + (the same for h)``.

    Args:
        boxes_xyxy: ``(..., 4)``, ``x1 <= x2`` and ``y1 <= y2``, any unit.
        target_boxes_xyxy: the same shape and unit.

    Returns:
        ``(...)`` in ``[0, 3]``.

    Example:
        >>> siou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))  # 1 + (1 - exp(-2 9/16)) / 2
        tensor([1.3377])
    """
    offset = _offset(boxes_xyxy, target_boxes_xyxy)
    slant = 2 * offset.prod(-1).abs() / (offset.square().sum(-1) + EPS)
    parts = offset.square() / (_hull_sides(boxes_xyxy, target_boxes_xyxy).square() + EPS)
    distance = (1 - torch.exp((slant - 2).unsqueeze(-1) * parts)).sum(-1)
    sides, target_sides = _sides(boxes_xyxy), _sides(target_boxes_xyxy)
    unlike = (sides - target_sides).abs() / (torch.maximum(sides, target_sides) + EPS)
    shape = (1 - torch.exp(-unlike)).pow(4).sum(-1)
    return iou_loss(boxes_xyxy, target_boxes_xyxy) + (distance + shape) / 2
