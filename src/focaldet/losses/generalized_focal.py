"""The general form with focal, quality focal and distribution focal loss as cases (arXiv 2006.04388, equation 7)."""

from jaxtyping import Float
from torch import Tensor

from focaldet.losses.numerics import safe_power


def generalized_focal_loss(
    log_probs_left: Float[Tensor, "..."],
    log_probs_right: Float[Tensor, "..."],
    targets: Float[Tensor, "..."],
    *,
    beta: float = 2.0,
    left: float | Float[Tensor, "..."] = 0.0,
    right: float | Float[Tensor, "..."] = 1.0,
) -> Float[Tensor, "..."]:
    """The general form: ``-|y - (y_l p_l + y_r p_r)|^β ((y_r - y) log p_l + (y - y_l) log p_r)``.

    | case | p_l, p_r | y_l, y_r | y | β |
    |---|---|---|---|---|
    | focal without α | 1 - σ, σ | 0, 1 | 0 or 1 | γ |
    | quality focal | 1 - σ, σ | 0, 1 | in [0, 1] | β |
    | distribution focal | S_i, S_{i+1} | i, i + 1 | in [i, i + 1] | 0 |

    Args:
        log_probs_left: ``log p_l``, any shape; a logarithm, so that no precision is lost.
        log_probs_right: ``log p_r``, the same shape.
        targets: y, the same shape, ``left <= y <= right``.
        beta: exponent of the distance to the target, any number >= 0.
        left: ``y_l``, a number or a tensor.
        right: ``y_r``, a number or a tensor.

    Returns:
        The loss of each element.

    Example:
        >>> import torch
        >>> z = torch.zeros(1)
        >>> generalized_focal_loss(torch.nn.functional.logsigmoid(-z), torch.nn.functional.logsigmoid(z), torch.ones(1))
        tensor([0.1733])
    """
    entropy = -((right - targets) * log_probs_left + (targets - left) * log_probs_right)
    if beta == 0:
        return entropy
    estimate = left * log_probs_left.exp() + right * log_probs_right.exp()
    return safe_power((targets - estimate).abs(), beta) * entropy
