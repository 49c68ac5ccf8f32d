"""The losses of paired boxes."""

from functools import partial

import torch
from torch import Tensor

from focaldet.checks import check_broadcasts, check_shape
from focaldet.functional import operators
from focaldet.functional.arguments import Call, check_device, check_logits, split_weight
from focaldet.functional.dispatch import fused_loss, use_fused
from focaldet.losses.reduce import resolve_reduction


def giou_loss(
    boxes_xyxy: Tensor,
    target_boxes_xyxy: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Generalised IoU loss of each pair of boxes: ``1 - GIoU``, in ``[0, 2]``.

    Args:
        boxes_xyxy: ``(..., 4)``, ``x1 <= x2`` and ``y1 <= y2``, any unit.
        target_boxes_xyxy: the same shape and unit.
        weight: broadcast against ``(...)``.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        normalizer: divides the sum.
        impl: ``"auto"``, ``"reference"`` or ``"fused"`` (which has no derivative on the target).

    Returns:
        A 0-d tensor, or ``(...)``.

    Example:
        >>> giou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))
        tensor([1.5000])
    """
    return _paired("giou", boxes_xyxy, target_boxes_xyxy, Call(weight, reduction, normalizer, impl))


def iou_loss(
    boxes_xyxy: Tensor,
    target_boxes_xyxy: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """``1 - IoU`` of each pair of boxes. Arguments as in `giou_loss`.

    Example:
        >>> iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor([0.6667])
    """
    return _paired("iou", boxes_xyxy, target_boxes_xyxy, Call(weight, reduction, normalizer, impl))


def diou_loss(
    boxes_xyxy: Tensor,
    target_boxes_xyxy: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Distance IoU loss: ``1 - IoU + d² / c²``, d the distance of the centres, c the diagonal of the box around both.

    Arguments as in `giou_loss`.

    Example:
        >>> diou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))
        tensor([1.5294])
    """
    return _paired("diou", boxes_xyxy, target_boxes_xyxy, Call(weight, reduction, normalizer, impl))


def ciou_loss(
    boxes_xyxy: Tensor,
    target_boxes_xyxy: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Complete IoU loss: the distance IoU loss, and a term for the ratio of the sides. Arguments as in `giou_loss`.

    Example:
        >>> ciou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 2, 1]]))
        tensor([0.5532])
    """
    return _paired("ciou", boxes_xyxy, target_boxes_xyxy, Call(weight, reduction, normalizer, impl))


def eiou_loss(
    boxes_xyxy: Tensor,
    target_boxes_xyxy: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Efficient IoU loss: the distance IoU loss, and a term for each side. Arguments as in `giou_loss`.

    Example:
        >>> eiou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 2, 1]]))
        tensor([0.8000])
    """
    return _paired("eiou", boxes_xyxy, target_boxes_xyxy, Call(weight, reduction, normalizer, impl))


def siou_loss(
    boxes_xyxy: Tensor,
    target_boxes_xyxy: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """SIoU loss: ``1 - IoU``, and terms for the offset of the centres, its angle, and the sides.

    Arguments as in `giou_loss`.

    Example:
        >>> siou_loss(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))
        tensor([1.3377])
    """
    return _paired("siou", boxes_xyxy, target_boxes_xyxy, Call(weight, reduction, normalizer, impl))


def _paired(kind: str, boxes_xyxy: Tensor, target_boxes_xyxy: Tensor, call: Call) -> Tensor:
    shape = _check_pairs(boxes_xyxy, target_boxes_xyxy)
    scale, divisor, reduce = resolve_reduction(call.reduction, call.normalizer, shape.numel())
    factor, weight = split_weight(call.weight, boxes_xyxy)
    check_device("normalizer", call.normalizer, boxes_xyxy)
    if weight is not None:
        check_broadcasts("weight", weight, tuple(shape))
        weight = weight.expand(shape).reshape(-1)
    boxes, target_boxes = boxes_xyxy.reshape(-1, 4), target_boxes_xyxy.reshape(-1, 4)
    fused = use_fused(call.impl, "paired_box_loss", boxes_xyxy, (target_boxes_xyxy, weight, divisor), kind=kind)
    run = partial(fused_loss, "paired_box_loss", False) if fused else operators.boxes.paired_box_loss
    loss = run(boxes, target_boxes, weight, divisor, operators.boxes.KINDS.index(kind), factor * scale, reduce)
    return loss if reduce else loss.reshape(shape)


def _check_pairs(boxes_xyxy: Tensor, target_boxes_xyxy: Tensor) -> torch.Size:
    check_logits(boxes_xyxy, "boxes_xyxy")
    check_logits(target_boxes_xyxy, "target_boxes_xyxy")
    check_device("target_boxes_xyxy", target_boxes_xyxy, boxes_xyxy)
    check_shape("target_boxes_xyxy", target_boxes_xyxy, tuple(boxes_xyxy.shape))
    if boxes_xyxy.ndim == 0 or boxes_xyxy.shape[-1] != 4:
        raise ValueError(f"boxes_xyxy: expected shape (..., 4), got {tuple(boxes_xyxy.shape)}")
    return boxes_xyxy.shape[:-1]
