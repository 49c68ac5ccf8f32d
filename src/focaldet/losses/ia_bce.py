"""IoU-aware binary cross entropy (IA-BCE: Cai et al., Align-DETR, arXiv 2304.07527; constants as in RF-DETR)."""

import torch
from jaxtyping import Float
from torch import Tensor

from focaldet.losses.cross_entropy import binary_cross_entropy
from focaldet.losses.numerics import safe_power

MIN_TARGET = 0.01
"""Lower bound on the target of a positive: even an entirely wrong box does not make it background."""


def _target(logits: Tensor, quality: Tensor, alpha: float) -> Tensor:
    # By logarithms: near 1, where the derivative is the small σ - t, a product of powers loses its digits.
    log_p = torch.nn.functional.logsigmoid(logits.detach()).clamp(min=-1e30)
    log_y = torch.where(quality > 0, quality, 1.0).log()
    return (alpha * log_p + (1 - alpha) * log_y).exp().clamp(min=MIN_TARGET)


def iou_aware_bce_loss(
    logits: Float[Tensor, "..."], targets: Float[Tensor, "..."], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "..."]:
    """IoU-aware BCE: ``BCE(z, t)`` where ``y > 0``, ``σ^γ BCE(z, 0)`` where ``y = 0``.

    The target of a positive is ``t = max(σ^α y^(1-α), .01)``, a constant: no gradient flows through it.

    Args:
        logits: any shape.
        targets: y, the same shape, in ``[0, 1]``: the IoU of the predicted box where there is an object.
        alpha: share of the probability in the target, in ``[0, 1]``; 0 leaves y alone.
        gamma: exponent on the negatives, any number >= 0.

    Returns:
        The loss of each element.

    Example:
        >>> iou_aware_bce_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))  # log 2 whatever the target, and .25 log 2
        tensor([0.6931, 0.1733])
    """
    p = logits.sigmoid()
    target = torch.where(targets > 0, _target(logits, targets, alpha), 0.0)
    factor = torch.where(targets > 0, 1.0, safe_power(p, gamma))
    return factor * binary_cross_entropy(logits, target)


def iou_aware_bce_loss_grad(
    logits: Float[Tensor, "..."], targets: Float[Tensor, "..."], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "..."]:
    """Derivative on the logits.

    y > 0: the target is a constant, so σ - t
    y = 0: σ^γ (σ + γ (1 - σ) softplus(z)), as in varifocal loss
    """
    p = logits.sigmoid()
    negative = safe_power(p, gamma) * (p + gamma * (1 - p) * binary_cross_entropy(logits, torch.zeros_like(p)))
    return torch.where(targets > 0, p - _target(logits, targets, alpha), negative)
