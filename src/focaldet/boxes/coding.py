"""Box coding: distances to the sides, distributions of distances, and anchor deltas.

``encode_*`` and ``decode_*`` are inverse. Distances are (left, top, right, bottom), in strides of the location's level.
Deltas are (x, y, width, height) relative to an anchor (Faster R-CNN, arXiv 1506.01497, equation 2).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LOG_SIDE = math.log(1000 / 16)
"""Upper bound on the logarithm of box size over anchor size. Without it, exp overflows."""


def encode_distances(
    points_px: Float[Tensor, "*N 2"], strides_px: Float[Tensor, "*N"], boxes_xyxy: Float[Tensor, "*N 4"]
) -> Float[Tensor, "*N 4"]:
    """Distances from each point to the sides of its box, in strides; negative if the point is outside.

    >>> encode_distances(torch.tensor([[12.0, 12.0]]), torch.tensor([8.0]), torch.tensor([[4.0, 8.0, 20.0, 28.0]]))
    tensor([[1.0000, 0.5000, 1.0000, 2.0000]])
    """
    return torch.cat([points_px - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_px], dim=-1) / strides_px[..., None]


def decode_distances(
    points_px: Float[Tensor, "*N 2"], strides_px: Float[Tensor, "*N"], distances: Float[Tensor, "*N 4"]
) -> Float[Tensor, "*N 4"]:
    """Boxes in pixels from points and distances in strides.

    >>> decode_distances(torch.tensor([[12.0, 12.0]]), torch.tensor([8.0]), torch.tensor([[1.0, 0.5, 1.0, 2.0]]))
    tensor([[ 4.,  8., 20., 28.]])
    """
    distances_px = distances * strides_px[..., None]
    return torch.cat([points_px - distances_px[..., :2], points_px + distances_px[..., 2:]], dim=-1)


def distribution_mean(logits: Float[Tensor, "*N K"]) -> Float[Tensor, "*N"]:
    """The expectation ``sum_i i softmax(logits)_i`` over the bins 0 .. K-1 (GFL, equation 5).

    >>> distribution_mean(torch.tensor([0.0, 0.0, 0.0]))
    tensor(1.)
    """
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float32)
    return logits.float().softmax(dim=-1) @ bins


def distribution_std(logits: Float[Tensor, "*N K"]) -> Float[Tensor, "*N"]:
    """The standard deviation of the distribution ``softmax(logits)``, in bins.

    >>> distribution_std(torch.tensor([0.0, -1e4, 0.0]))
    tensor(1.)
    """
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float32)
    probs = logits.float().softmax(dim=-1)
    mean = probs @ bins
    return (probs * (bins - mean[..., None]).square()).sum(dim=-1).sqrt()


def encode_deltas(
    anchors_xyxy: Float[Tensor, "*N 4"], boxes_xyxy: Float[Tensor, "*N 4"], stds: tuple[float, float, float, float]
) -> Float[Tensor, "*N 4"]:
    """Deltas of boxes from their anchors: centre shift in anchor sides, logarithm of the size ratio.

    Args:
        anchors_xyxy, boxes_xyxy: in pixels, with sides > 0.
        stds: divisors of the four deltas, so that the targets are of order 1.

    >>> anchors, boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[4.0, 0.0, 12.0, 8.0]])
    >>> encode_deltas(anchors, boxes, (1.0, 1.0, 1.0, 1.0))
    tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
    """
    size, center = _size_and_center(anchors_xyxy)
    box_size, box_center = _size_and_center(boxes_xyxy)
    deltas = torch.cat([(box_center - center) / size, (box_size / size).log()], dim=-1)
    return deltas / _row(stds, deltas)


def decode_deltas(
    anchors_xyxy: Float[Tensor, "*N 4"], deltas: Float[Tensor, "*N 4"], stds: tuple[float, float, float, float]
) -> Float[Tensor, "*N 4"]:
    """Boxes in pixels from anchors and deltas. A box is at most ``1000 / 16`` times as large as its anchor.

    >>> anchors, deltas = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.5, 0.0, 0.0, 0.0]])
    >>> decode_deltas(anchors, deltas, (1.0, 1.0, 1.0, 1.0))
    tensor([[ 4.,  0., 12.,  8.]])
    """
    size, center = _size_and_center(anchors_xyxy)
    scaled = deltas * _row(stds, deltas)
    box_center = center + scaled[..., :2] * size
    half = size * scaled[..., 2:].clamp(max=MAX_LOG_SIDE).exp() / 2
    return torch.cat([box_center - half, box_center + half], dim=-1)


def _row(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """A tensor of the numbers, filled on the device, because a copy from the host would wait."""
    return torch.cat([like.new_full((1,), number) for number in numbers])


def _size_and_center(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    return boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
