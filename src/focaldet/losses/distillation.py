"""Knowledge distillation (Hinton et al., arXiv 1503.02531): a distribution learns from a teacher's.

With the bins of a box side for classes, this is localization distillation (Zheng et al., CVPR 2022, arXiv 2102.12252).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def distillation_loss(
    logits: Float[Tensor, "... K"], teacher_logits: Float[Tensor, "... K"], *, temperature: float = 10.0
) -> Float[Tensor, "..."]:
    """Distillation: ``T² KL(P ‖ S)``, ``P = softmax(teacher / T)`` and ``S = softmax(z / T)``.

    A high temperature flattens both distributions, so that small probabilities matter too. The factor T² compensates
    for the gradient's 1 / T².

    Args:
        logits: ``(..., K)``.
        teacher_logits: the same shape; no gradient flows to them.
        temperature: T > 0.

    Returns:
        ``(...)`` the loss of each distribution, at least 0.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), temperature=1.0)
        tensor([0.1109])
    """
    log_probs = (logits / temperature).log_softmax(-1)
    log_taught = (teacher_logits.detach() / temperature).log_softmax(-1)
    probs = log_taught.exp()
    # A class without probability is left out, whatever its logits: 0 times infinity would be NaN.
    return temperature**2 * torch.where(probs == 0, 0.0, probs * (log_taught - log_probs)).sum(-1)


def distillation_loss_grad(
    logits: Float[Tensor, "... K"], teacher_logits: Float[Tensor, "... K"], *, temperature: float = 10.0
) -> Float[Tensor, "... K"]:
    """Derivative on the logits.

    KL(P ‖ S) = Σ_k P_k log P_k - Σ_k P_k log S_k
    d(-Σ_k P_k log S_k) / d(z_j / T) = S_j - P_j
    d(T² KL)/dz_j = T (S_j - P_j)
    """
    return temperature * ((logits / temperature).softmax(-1) - (teacher_logits / temperature).softmax(-1))
