"""Quality focal loss (Li et al., NeurIPS 2020, arXiv 2006.04388, equation 2)."""

from jaxtyping import Float
from torch import Tensor

from focaldet.losses.cross_entropy import binary_cross_entropy
from focaldet.losses.numerics import safe_power


def quality_focal_loss(
    logits: Float[Tensor, "..."], targets: Float[Tensor, "..."], *, beta: float = 2.0
) -> Float[Tensor, "..."]:
    """Quality focal loss: ``-|y - σ|^β ((1 - y) log(1 - σ) + y log σ)``, zero at ``σ = y``.

    Focal loss for soft labels: the target of the true class is the quality of the predicted box (its IoU).

    Args:
        logits: any shape.
        targets: the same shape, in ``[0, 1]``.
        beta: exponent of the distance to the target, any number >= 0.

    Returns:
        The loss of each element.

    Example:
        >>> import torch
        >>> quality_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.5]))
        tensor([0.1733, 0.0000])
    """
    loss = binary_cross_entropy(logits, targets)
    if beta == 0:
        return loss
    distance = targets * (-logits).sigmoid() - (1 - targets) * logits.sigmoid()  # y - σ with all its digits near 1
    return loss * safe_power(distance.abs(), beta)


def quality_focal_loss_grad(
    logits: Float[Tensor, "..."], targets: Float[Tensor, "..."], *, beta: float = 2.0
) -> Float[Tensor, "..."]:
    """Derivative on the logits.

    QFL = |d|^β BCE with d = σ - y, dd/dz = σ (1 - σ), dBCE/dz = d
    d|d|^β / dz = β |d|^(β-1) sgn(d) σ (1 - σ)
    dQFL/dz = |d|^β d + β |d|^(β-1) sgn(d) σ (1 - σ) BCE
    """
    p = logits.sigmoid()
    d = p - targets
    grad = safe_power(d.abs(), beta) * d
    if beta == 0:
        return grad
    # sgn(d) is 0 at d = 0, where |d|^(β-1) is 1 (β = 1), 0 (β > 1) or infinite (β < 1, and then taken as 0).
    slope = beta * safe_power(d.abs(), beta - 1) * d.sign() * p * (1 - p)
    return grad + slope * binary_cross_entropy(logits, targets)
