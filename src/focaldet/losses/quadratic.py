"""The quadratic cost of a sigmoid neuron: where the story of cross entropy starts."""

from jaxtyping import Float
from torch import Tensor


def quadratic_loss(logits: Float[Tensor, "..."], targets: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half the squared distance between the activation and its target: ``(y - σ(z))² / 2``.

    Args:
        logits: any shape.
        targets: the same shape, in ``[0, 1]``.

    Returns:
        The loss of each element, in ``[0, ½]``.

    Example:
        >>> import torch
        >>> quadratic_loss(torch.tensor([0.0]), torch.tensor([1.0]))
        tensor([0.1250])
    """
    return (targets - logits.sigmoid()) ** 2 / 2


def quadratic_loss_grad(logits: Float[Tensor, "..."], targets: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Derivative on the logits.

    C = (a - y)² / 2 with a = σ(z)
    dC/dz = (a - y) σ'(z)
          = (a - y) a (1 - a): nearly zero for a saturated neuron, however wrong it is
    """
    a = logits.sigmoid()
    return (a - targets) * a * (1 - a)
