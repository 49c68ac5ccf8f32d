"""Varifocal loss (Zhang et al., CVPR 2021, arXiv 2008.13367)."""

import torch
from jaxtyping import Float
from torch import Tensor

from focaldet.losses.cross_entropy import binary_cross_entropy
from focaldet.losses.numerics import safe_power


def varifocal_loss(
    logits: Float[Tensor, "..."], targets: Float[Tensor, "..."], *, alpha: float | Tensor = 0.75, gamma: float = 2.0
) -> Float[Tensor, "..."]:
    """Varifocal loss: ``y BCE(z, y)`` where ``y > 0``, ``α σ^γ BCE(z, 0)`` where ``y = 0``.

    Only the negatives are focused; a positive is weighted by its quality.

    Args:
        logits: any shape.
        targets: the same shape, in ``[0, 1]``.
        alpha: weight of the negatives (not, as in focal loss, of the positives).
        gamma: exponent on the negatives, any number >= 0.

    Returns:
        The loss of each element.

    Example:
        >>> varifocal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))  # log 2 and .75 * .25 * log 2
        tensor([0.6931, 0.1300])
    """
    factor = torch.where(targets > 0, targets, alpha * safe_power(logits.sigmoid(), gamma))
    return factor * binary_cross_entropy(logits, targets)


def varifocal_loss_grad(
    logits: Float[Tensor, "..."], targets: Float[Tensor, "..."], *, alpha: float | Tensor = 0.75, gamma: float = 2.0
) -> Float[Tensor, "..."]:
    """Derivative on the logits.

    y > 0: the factor y is a constant, so y (σ - y)
    y = 0: d/dz [σ^γ softplus(z)] = γ σ^(γ-1) σ (1 - σ) softplus(z) + σ^γ σ
         = σ^γ (σ + γ (1 - σ) softplus(z)), times α
    """
    p = logits.sigmoid()
    negative = alpha * safe_power(p, gamma) * (p + gamma * (1 - p) * binary_cross_entropy(logits, torch.zeros_like(p)))
    return torch.where(targets > 0, targets * (p - targets), negative)
