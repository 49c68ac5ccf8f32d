"""Distribution focal loss (Li et al., NeurIPS 2020, arXiv 2006.04388, equation 6)."""

import torch
from jaxtyping import Float
from torch import Tensor


def neighbours(targets: Float[Tensor, "..."], num_bins: int) -> tuple[Tensor, Tensor]:
    """The left bin ``i`` of each target and the weight ``y - i`` of bin ``i + 1``; both ends of the range are inside.

    >>> neighbours(torch.tensor([0.0, 1.25, 3.0]), num_bins=4)
    (tensor([0, 1, 2]), tensor([0.0000, 0.2500, 1.0000]))
    """
    left = targets.floor().clamp(0, num_bins - 2)  # y = num_bins - 1 is the right end of the last interval
    return left.long(), targets - left


def distribution_focal_loss(logits: Float[Tensor, "... K"], targets: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Distribution focal loss: ``-((i + 1 - y) log S_i + (y - i) log S_{i+1})``, ``i <= y <= i + 1``.

    S is the softmax over the bins. It rewards mass on the two bins around the label. Its minimum is the entropy of the
    two weights, not 0. There, the expectation of the distribution is ``y``.

    Args:
        logits: ``(..., K)``, one for each bin 0 .. K-1.
        targets: ``(...)`` in ``[0, K - 1]``, in bins, both ends included.

    Returns:
        ``(...)`` the loss of each distribution.

    Example:
        >>> distribution_focal_loss(torch.zeros(2, 4), torch.tensor([0.5, 3.0]))
        tensor([1.3863, 1.3863])
    """
    left, right_weight = neighbours(targets, logits.shape[-1])
    log_probs = logits.log_softmax(-1)
    log_left = log_probs.gather(-1, left.unsqueeze(-1)).squeeze(-1)
    log_right = log_probs.gather(-1, left.unsqueeze(-1) + 1).squeeze(-1)
    return -((1 - right_weight) * log_left + right_weight * log_right)


def distribution_focal_loss_grad(
    logits: Float[Tensor, "... K"], targets: Float[Tensor, "..."]
) -> Float[Tensor, "... K"]:
    """Derivative on the logits.

    DFL = logsumexp(z) - (w_l z_i + w_r z_{i+1}), since w_l + w_r = 1
    d logsumexp(z) / dz_k = S_k
    dDFL/dz_k = S_k - w_l [k = i] - w_r [k = i + 1]
    """
    left, right_weight = neighbours(targets, logits.shape[-1])
    grad = logits.softmax(-1)
    index = torch.stack([left, left + 1], dim=-1)
    return grad.scatter_add(-1, index, -torch.stack([1 - right_weight, right_weight], dim=-1).to(grad.dtype))
