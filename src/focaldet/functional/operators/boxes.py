"""The losses of paired boxes as one operator. The fused kernel has the same signature and results."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from focaldet.losses.iou import ciou_loss, diou_loss, eiou_loss, giou_loss, iou_loss, siou_loss
from focaldet.losses.numerics import widen
from focaldet.losses.reduce import silenced, weigh_and_sum

FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "giou": giou_loss,
    "iou": iou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
    "eiou": eiou_loss,
    "siou": siou_loss,
}
"""Kind of loss -> its formula."""

KINDS = tuple(FORMULAS)
"""The kinds. The kernels number them by their index here."""


def paired_box_loss(
    boxes_xyxy: Float[Tensor, "N 4"],
    target_boxes_xyxy: Float[Tensor, "N 4"],
    weight: Float[Tensor, " N"] | None,
    normalizer: Float[Tensor, ""] | None,
    kind: int,
    scale: float,
    reduce: bool,
) -> Tensor:
    """Loss of the given kind of each pair times ``scale / normalizer``, summed when ``reduce``."""
    boxes, of_sides = widen(boxes_xyxy), None if weight is None else weight.unsqueeze(-1)
    loss = FORMULAS[KINDS[kind]](silenced(boxes, of_sides), silenced(target_boxes_xyxy.to(boxes.dtype), of_sides))
    return weigh_and_sum(loss, weight, scale, normalizer, reduce)
