"""Cross entropy on logits: binary (sigmoid) and categorical (softmax)."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import logsigmoid


def binary_cross_entropy(logits: Float[Tensor, "..."], targets: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Binary cross entropy: ``-(y log σ(z) + (1 - y) log(1 - σ(z)))``.

    Args:
        logits: any shape, any real number: ±1e4 gives the right finite value.
        targets: the same shape, in ``[0, 1]``.

    Returns:
        The loss of each element, at least the entropy of its target.

    Example:
        >>> binary_cross_entropy(torch.tensor([0.0, 1e4]), torch.tensor([1.0, 0.0]))
        tensor([6.9315e-01, 1.0000e+04])
    """
    # Both terms are >= 0, so nothing cancels; softplus(z) - y z would, for y = 1 and a large z.
    loss = -(targets * logsigmoid(logits) + (1 - targets) * logsigmoid(-logits))
    return torch.where(logits.isinf() & (targets == (logits > 0)), 0.0, loss)  # and not 0 times infinity


def binary_cross_entropy_grad(logits: Float[Tensor, "..."], targets: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Derivative on the logits.

    BCE = softplus(z) - y z
    softplus'(z) = σ(z)
    dBCE/dz = σ(z) - y: a large error learns fast, a small one slowly
    """
    return logits.sigmoid() - targets


def cross_entropy(
    logits: Float[Tensor, "... C"], labels: Integer[Tensor, "..."], *, label_smoothing: float = 0.0
) -> Float[Tensor, "..."]:
    """Categorical cross entropy: ``-log softmax(z)_label``.

    Args:
        logits: ``(..., C)``.
        labels: ``(...)`` integers in ``[0, C)``.
        label_smoothing: ε: the target is ``1 - ε`` on the label plus ``ε / C`` on every class.

    Returns:
        ``(...)`` the loss of each row.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([1]))  # log(1 + 1 + e)
        tensor([1.5514])
    """
    log_probs = logits.log_softmax(-1)
    loss = -log_probs.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_probs.mean(-1)
    return loss


def soft_cross_entropy(
    logits: Float[Tensor, "... C"],
    targets: Float[Tensor, "... C"],
    *,
    alpha: Float[Tensor, " C"] | float | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "..."]:
    """Categorical cross entropy with a distribution as target: ``-Σ_k α_k y_k log softmax(z)_k``.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]), alpha=torch.tensor([1.0, 3.0]))
    tensor([1.3863])
    >>> soft_cross_entropy(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([3.0486])
    """
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
    if alpha is not None:
        targets = targets * alpha
    # A target of 0 is left out whatever its logit: 0 times infinity would be NaN.
    return -torch.where(targets == 0, 0.0, targets * logits.log_softmax(-1)).sum(-1)


def cross_entropy_grad(
    logits: Float[Tensor, "... C"], labels: Integer[Tensor, "..."], *, label_smoothing: float = 0.0
) -> Float[Tensor, "... C"]:
    """Derivative on the logits.

    CE = logsumexp(z) - Σ_k y_k z_k with y the (smoothed) one-hot label
    d logsumexp(z) / dz_k = softmax(z)_k
    dCE/dz_k = softmax(z)_k - y_k
    """
    probs = logits.softmax(-1)
    one_hot = torch.zeros_like(probs).scatter(-1, labels.long().unsqueeze(-1), 1.0)
    return probs - (1 - label_smoothing) * one_hot - label_smoothing / logits.shape[-1]
