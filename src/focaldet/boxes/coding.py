"""How a box is written at a site, and read back: distances to its sides, and distributions of distances.

``encode_*`` and ``decode_*`` are inverse. Distances are (left, top, right, bottom), in strides of the site's level.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def encode_distances(
    points_px: Float[Tensor, "*N 2"], strides_px: Float[Tensor, "*N"], boxes_xyxy: Float[Tensor, "*N 4"]
) -> Float[Tensor, "*N 4"]:
    """Distances from each point to the sides of its box, in strides; negative where the point is outside.

    >>> encode_distances(torch.tensor([[12.0, 12.0]]), torch.tensor([8.0]), torch.tensor([[4.0, 8.0, 20.0, 28.0]]))
    tensor([[1.0000, 0.5000, 1.0000, 2.0000]])
    """
    return torch.cat([points_px - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_px], dim=-1) / strides_px[..., None]


def decode_distances(
    points_px: Float[Tensor, "*N 2"], strides_px: Float[Tensor, "*N"], distances: Float[Tensor, "*N 4"]
) -> Float[Tensor, "*N 4"]:
    """The box of each point's distances, in pixels.

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
    """The standard deviation of the same distribution, in bins.

    >>> distribution_std(torch.tensor([0.0, -1e4, 0.0]))
    tensor(1.)
    """
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float32)
    probs = logits.float().softmax(dim=-1)
    mean = probs @ bins
    return (probs * (bins - mean[..., None]).square()).sum(dim=-1).sqrt()
