"""Equalized focal loss, and its quality form (Li et al., CVPR 2022, arXiv 2201.02593).

If the negatives of a class have outweighed its positives so far in training, its exponent and its weight grow:

    g = clamp(sum |dL/dz| over positives / sum |dL/dz| over negatives, 0, 1)      of each class
    γ = γ_b + s (1 - g)
    L = γ / γ_b times focal loss, or quality focal loss, with the exponent γ
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from focaldet.losses.focal import sigmoid_focal_loss
from focaldet.losses.numerics import safe_power
from focaldet.losses.quality_focal import quality_focal_loss

EPS = 1e-10
"""Added to the sum over the negatives, as in the authors' code."""


def class_exponents(gradients: Float[Tensor, "2 C"], *, gamma: float, scale: float) -> Float[Tensor, " C"]:
    """The exponent γ of each class.

    Args:
        gradients: sums of the absolute derivatives of each class so far, over the positives and over the negatives. A
            class without any counts as balanced, so that training starts with the plain loss.
        gamma: γ_b, the exponent of a balanced class.
        scale: s, added to the exponent of a class without positive gradient.

    Example:
        >>> class_exponents(torch.tensor([[0.0, 1.0, 3.0], [0.0, 4.0, 2.0]]), gamma=2, scale=8)
        tensor([2., 8., 2.])
    """
    positive, negative = gradients
    ratio = (positive / (negative + EPS)).clamp(0, 1)
    unseen = (positive == 0) & (negative == 0)
    return gamma + scale * (1 - torch.where(unseen, 1.0, ratio))


def equalized_loss(
    logits: Float[Tensor, "... C"],
    targets: Float[Tensor, "... C"],
    *,
    exponents: Float[Tensor, " C"],
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    quality: bool = False,
) -> Float[Tensor, "... C"]:
    """Equalized focal loss of each element.

    Args:
        logits: ``(..., C)``.
        targets: the same shape, in ``[0, 1]``.
        exponents: γ of each class.
        gamma: γ_b, the exponent of a balanced class, > 0.
        alpha: weight of the positives in focal loss; ``None`` switches it off.
        quality: use quality focal loss, which has no α, instead of focal loss.

    Example:
        >>> equalized_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), exponents=torch.tensor([2.0, 4.0]), alpha=None)
        tensor([0.1733, 0.0866])
    """
    if quality:
        distance = targets * (-logits).sigmoid() - (1 - targets) * logits.sigmoid()
        loss = quality_focal_loss(logits, targets, beta=0) * safe_power(distance.abs(), exponents)
    else:
        loss = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=exponents)
    return exponents / gamma * loss


def sums_by_class(derivative: Float[Tensor, "N C"], positive: Bool[Tensor, "N C"]) -> Float[Tensor, "2 C"]:
    """Sums of the absolute derivatives of each class in float64, over the positives and over the negatives."""
    size = derivative.detach().double().abs()
    positives = torch.where(positive, size, 0.0).sum(0)
    return torch.stack([positives, torch.where(positive, 0.0, size).sum(0)])
