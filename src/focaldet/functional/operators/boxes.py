"""GIoU loss of paired boxes as an operator: what the fused kernel of the same signature computes."""

from jaxtyping import Float
from torch import Tensor

from focaldet.losses.iou import giou_loss
from focaldet.losses.numerics import widen
from focaldet.losses.reduce import silenced, weigh_and_sum


def paired_giou_loss(
    boxes_xyxy: Float[Tensor, "N 4"],
    target_boxes_xyxy: Float[Tensor, "N 4"],
    weight: Float[Tensor, " N"] | None,
    normalizer: Float[Tensor, ""] | None,
    scale: float,
    reduce: bool,
) -> Tensor:
    """``1 - GIoU`` of each pair times ``scale / normalizer``, summed when ``reduce``."""
    boxes, of_sides = widen(boxes_xyxy), None if weight is None else weight.unsqueeze(-1)
    loss = giou_loss(silenced(boxes, of_sides), silenced(target_boxes_xyxy.to(boxes.dtype), of_sides))
    return weigh_and_sum(loss, weight, scale, normalizer, reduce)
