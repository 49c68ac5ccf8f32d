"""Box formats. Every name includes its format. Coordinates are continuous: the width of a box is ``x2 - x1``."""

import torch
from jaxtyping import Float
from torch import Tensor


def box_centers(boxes_xyxy: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 2"]:
    """Centre (x, y) of each box.

    >>> box_centers(torch.tensor([[0.0, 0.0, 4.0, 8.0]]))
    tensor([[2., 4.]])
    """
    return (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2


def square_boxes(centers_xy: Float[Tensor, "*N 2"], sides: Float[Tensor, "*N"] | float) -> Float[Tensor, "*N 4"]:
    """Squares around points, such as the anchors of ATSS.

    >>> square_boxes(torch.tensor([[4.0, 8.0]]), 4.0)
    tensor([[ 2.,  6.,  6., 10.]])
    """
    half = sides[..., None] / 2 if isinstance(sides, Tensor) else sides / 2
    return torch.cat([centers_xy - half, centers_xy + half], dim=-1)


def clip_boxes(boxes_xyxy: Float[Tensor, "*N 4"], height: float, width: float) -> Float[Tensor, "*N 4"]:
    """Boxes clipped to the image ``[0, width] x [0, height]``.

    >>> clip_boxes(torch.tensor([[-3.0, 2.0, 40.0, 8.0]]), height=6, width=30)
    tensor([[ 0.,  2., 30.,  6.]])
    """
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return torch.stack(
        [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)],
        dim=-1,
    )
