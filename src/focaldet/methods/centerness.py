"""Centerness (Tian et al., ICCV 2019, arXiv 1904.01355, equation 3): how near a site is to its object's centre."""

import torch
from jaxtyping import Float
from torch import Tensor

from focaldet.boxes.coding import encode_distances
from focaldet.boxes.locations import gather_sites
from focaldet.functional import binary_cross_entropy
from focaldet.methods.method import count_positives
from focaldet.methods.positives import Positives


def centerness(positives: Positives) -> Float[Tensor, " N"]:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))``, 1 in the middle of the object and 0 on its border.

    >>> import torch
    >>> from focaldet.boxes.locations import Sites
    >>> box, zero = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.zeros(1, dtype=torch.int64)
    >>> sites = Sites(torch.tensor([[2.0, 4.0]]), torch.tensor([8.0]))
    >>> centerness(Positives(zero, zero, zero, sites, box, zero))
    tensor([0.5774])
    """
    distances = encode_distances(positives.sites.points_xy, positives.sites.strides, positives.boxes_xyxy)
    pairs = distances.clamp(min=0).view(-1, 2, 2)  # (left, top), (right, bottom)
    return (pairs.amin(dim=1) / pairs.amax(dim=1).clamp(min=torch.finfo(pairs.dtype).tiny)).prod(dim=1).sqrt()


def centerness_loss(quality_logits: list[Tensor], positives: Positives, target: Tensor) -> Tensor:
    """Binary cross entropy of the centerness branch, over the positives."""
    logits = gather_sites(quality_logits, 1, positives.image, positives.site)
    return binary_cross_entropy(logits, target[:, None], reduction="sum", normalizer=count_positives(positives))
