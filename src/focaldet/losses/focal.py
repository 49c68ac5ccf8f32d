"""Focal loss (Lin et al., ICCV 2017, arXiv 1708.02002), in its sigmoid and its softmax form."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import logsigmoid

from focaldet.losses.cross_entropy import binary_cross_entropy, cross_entropy, soft_cross_entropy
from focaldet.losses.numerics import safe_power


def _log_miss(logits: Tensor, targets: Tensor) -> Tensor:
    """``log(1 - p_t)``, ``p_t = p y + (1 - p)(1 - y)``: exact for y = 0 and y = 1, finite for every finite logit."""
    log_q, log_p = logsigmoid(-logits), logsigmoid(logits)
    soft = (targets > 0) & (targets < 1)
    y, z = torch.where(soft, targets, 0.5), torch.where(soft, logits, 0.0)
    # log(e^a + e^b) from the larger of the two; torch.logaddexp has a NaN second derivative where they are far apart.
    a, b = y.log() + logsigmoid(-z), (1 - y).log() + logsigmoid(z)
    mixed = torch.where(a > b, a - logsigmoid(a - b), b - logsigmoid(b - a))
    return torch.where(soft, mixed, torch.where(targets > 0, log_q, log_p))


def sigmoid_focal_loss(
    logits: Float[Tensor, "... C"],
    targets: Float[Tensor, "... C"],
    *,
    alpha: float | Tensor | None = 0.25,
    gamma: float | Tensor = 2.0,
) -> Float[Tensor, "... C"]:
    """Focal loss: ``-α_t (1 - p_t)^γ log p_t``.

    ``p_t`` is the probability given to the truth (``p`` for a positive, ``1 - p`` for a negative) and ``α_t`` is α for
    a positive, ``1 - α`` for a negative. For a target between 0 and 1 both are interpolated, as torchvision does.

    Args:
        logits: ``(..., C)``.
        targets: the same shape, in ``[0, 1]``.
        alpha: weight of the positives, a number in ``[0, 1]`` or a tensor ``(C,)``; ``None`` switches it off.
        gamma: focusing exponent, any number >= 0, or a tensor ``(C,)``.

    Returns:
        The loss of each element.

    Example:
        >>> sigmoid_focal_loss(torch.zeros(1), torch.ones(1))  # .25 * .5² * log 2
        tensor([0.0433])
    """
    loss = binary_cross_entropy(logits, targets)
    if isinstance(gamma, Tensor) or gamma != 0:
        # (1 - p_t)^γ as exp(γ log(1 - p_t)): a power of 1 - p_t has an infinite derivative at 0 for γ < 1.
        loss = loss * torch.exp(gamma * _log_miss(logits, targets))
    if alpha is not None:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


def sigmoid_focal_loss_grad(
    logits: Float[Tensor, "... C"],
    targets: Float[Tensor, "... C"],
    *,
    alpha: float | Tensor | None = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, "... C"]:
    """Derivative on the logits, for targets 0 and 1.

    Let x = z for a positive, -z for a negative, so that p_t = σ(x) and dz = ±dx
    d/dx [-(1 - p_t)^γ log p_t] = γ (1 - p_t)^(γ-1) p_t (1 - p_t) log p_t - (1 - p_t)^γ (1 - p_t)
    dFL/dz = ±α_t (1 - p_t)^γ (γ p_t log p_t + p_t - 1)
    """
    sign = 2 * targets - 1
    x = sign * logits
    grad = sign * torch.exp(gamma * logsigmoid(-x)) * (gamma * x.sigmoid() * logsigmoid(x) - (-x).sigmoid())
    return grad if alpha is None else grad * (alpha * targets + (1 - alpha) * (1 - targets))


def softmax_focal_loss(
    logits: Float[Tensor, "... C"],
    labels: Integer[Tensor, "..."],
    *,
    gamma: float = 2.0,
    alpha: Float[Tensor, " C"] | float | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "..."]:
    """Focal loss over a softmax: ``-α_t (1 - p_t)^γ log p_t`` with ``p = softmax(z)``.

    Args:
        logits: ``(..., C)``.
        labels: ``(...)`` integers in ``[0, C)``.
        gamma: focusing exponent, any number >= 0.
        alpha: weight of each class ``(C,)``, a number for all classes, or ``None`` for 1.
        label_smoothing: ε; each class then counts with its own α, as in ``torch.nn.functional.cross_entropy``, and
            ``(1 - p_t)^γ`` multiplies the whole sum.

    Returns:
        ``(...)`` the loss of each row.

    Example:
        >>> softmax_focal_loss(torch.zeros(1, 2), torch.tensor([1]))  # .5² * log 2
        tensor([0.1733])
    """
    labels = labels.long()
    by_class = isinstance(alpha, Tensor) and alpha.ndim > 0
    if by_class and label_smoothing:
        one_hot = torch.zeros_like(logits).scatter(-1, labels.unsqueeze(-1), 1.0)
        loss = soft_cross_entropy(logits, one_hot, alpha=alpha, label_smoothing=label_smoothing)
        alpha = None
    else:
        loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if gamma != 0:
        # As the sum of the other probabilities, 1 - p_t keeps its digits when p_t is near 1.
        others = logits.softmax(-1).scatter(-1, labels.unsqueeze(-1), 0.0).sum(-1)
        loss = loss * safe_power(others, gamma)
    if isinstance(alpha, Tensor) and alpha.ndim:
        return loss * alpha[labels]
    return loss if alpha is None else loss * alpha


def softmax_focal_loss_grad(
    logits: Float[Tensor, "... C"], labels: Integer[Tensor, "..."], *, gamma: float = 2.0
) -> Float[Tensor, "... C"]:
    """Derivative on the logits, without α and smoothing.

    FL = -(1 - p_t)^γ log p_t and dp_t/dz_k = p_t ([k = t] - p_k)
    dFL/dp_t = γ (1 - p_t)^(γ-1) log p_t - (1 - p_t)^γ / p_t
    dFL/dz_k = (p_k - [k = t]) (1 - p_t)^γ (1 - γ p_t log p_t / (1 - p_t)); the last fraction tends to -1 for p_t -> 1
    """
    index = labels.long().unsqueeze(-1)
    log_pt = logits.log_softmax(-1).gather(-1, index)
    probs = logits.softmax(-1)
    miss = probs.scatter(-1, index, 0.0).sum(-1, keepdim=True)
    fraction = torch.where(miss > 0, log_pt / torch.where(miss > 0, miss, 1.0), -1.0)
    factor = safe_power(miss, gamma) * (1 - gamma * log_pt.exp() * fraction)
    return factor * (probs - torch.zeros_like(probs).scatter(-1, index, 1.0))
