"""Matchability-aware loss (Huang et al., DEIM, CVPR 2025, arXiv 2412.04234)."""

import torch
from jaxtyping import Float
from torch import Tensor

from focaldet.losses.cross_entropy import binary_cross_entropy
from focaldet.losses.numerics import safe_power


def matchability_aware_loss(
    logits: Float[Tensor, "..."],
    targets: Float[Tensor, "..."],
    *,
    gamma: float = 1.5,
    alpha: float | Tensor | None = None,
) -> Float[Tensor, "..."]:
    """Matchability-aware loss: ``BCE(z, y^γ)`` where ``y > 0``, ``σ^γ BCE(z, 0)`` where ``y = 0``.

    The factor ``σ^γ`` is a weight: no gradient flows through it, as in the authors' code.

    Args:
        logits: any shape.
        targets: the same shape, in ``[0, 1]``.
        gamma: exponent of the target and of the negatives' weight, any number >= 0.
        alpha: a further weight of the negatives, ``None`` for 1.

    Returns:
        The loss of each element.

    Example:
        >>> matchability_aware_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))  # log 2 and .5^1.5 log 2
        tensor([0.6931, 0.2451])
    """
    scale = 1.0 if alpha is None else alpha
    factor = torch.where(targets > 0, 1.0, scale * safe_power(logits.detach().sigmoid(), gamma))
    return factor * binary_cross_entropy(logits, torch.where(targets > 0, safe_power(targets, gamma), 0.0))


def matchability_aware_loss_grad(
    logits: Float[Tensor, "..."],
    targets: Float[Tensor, "..."],
    *,
    gamma: float = 1.5,
    alpha: float | Tensor | None = None,
) -> Float[Tensor, "..."]:
    """Derivative on the logits.

    The factors are constants and dBCE(z, t)/dz = σ - t
    y > 0: σ - y^γ
    y = 0: α σ^γ σ
    """
    p = logits.sigmoid()
    scale = 1.0 if alpha is None else alpha
    return torch.where(targets > 0, p - safe_power(targets, gamma), scale * safe_power(p, gamma) * p)
