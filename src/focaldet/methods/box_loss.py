"""The box losses that every method can take (``--box-loss``)."""

from typing import Literal

from torch import Tensor

from focaldet.functional import ciou_loss, diou_loss, eiou_loss, giou_loss, iou_loss, siou_loss

BoxLoss = Literal["giou", "iou", "diou", "ciou", "eiou", "siou", "log_iou"]

OF_PAIRS = {
    "giou": giou_loss,
    "iou": iou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
    "eiou": eiou_loss,
    "siou": siou_loss,
}

MIN_IOU = 1e-6
"""Lower bound on the IoU in -ln IoU. Boxes below it have no gradient."""


def box_loss(kind: str, boxes: Tensor, gt_boxes: Tensor, weight: Tensor | None, total: Tensor) -> Tensor:
    """The weighted sum of the losses of paired boxes ``(N, 4)``, divided by ``total``. ``log_iou`` is ``-ln IoU``."""
    if kind != "log_iou":
        return OF_PAIRS[kind](boxes, gt_boxes, weight=weight, reduction="sum", normalizer=total)
    overlap = (1 - iou_loss(boxes, gt_boxes)).clamp(min=MIN_IOU).log()
    return -(overlap if weight is None else weight * overlap).sum() / total
