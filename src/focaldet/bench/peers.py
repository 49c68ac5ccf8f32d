"""Common implementations in plain PyTorch, against which the fused losses are measured."""

import torch
from torch import Tensor
from torch.nn import functional as F


def gathered_quality_focal(logits: Tensor, labels: Tensor, quality: Tensor, normalizer: float) -> Tensor:
    """Quality focal loss as in the reference implementations: all entries as negatives, then positives replaced."""
    probs = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none") * probs.pow(2)
    rows = (labels >= 0).nonzero().squeeze(1)
    columns = labels[rows]
    score = quality[rows]
    distance = (score - probs[rows, columns]).abs()
    positive = F.binary_cross_entropy_with_logits(logits[rows, columns], score, reduction="none") * distance.pow(2)
    loss[rows, columns] = positive
    return loss.sum(dim=1).sum() / normalizer


def two_cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """Distribution focal loss as two weighted cross entropies, for targets below the last bin."""
    left = targets.long()
    right = left + 1
    left_weight = right - targets
    loss = F.cross_entropy(logits, left, reduction="none") * left_weight
    loss = loss + F.cross_entropy(logits, right, reduction="none") * (1 - left_weight)
    return loss.sum()


def divergence_of_softmaxes(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Distillation as in most implementations: two softmaxes and PyTorch's divergence."""
    log_probs, target = (logits / temperature).log_softmax(-1), (teacher_logits / temperature).softmax(-1)
    return temperature**2 * F.kl_div(log_probs, target, reduction="sum")


def focal_on_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax focal loss (γ = 2) on top of PyTorch's cross entropy."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-loss)) ** 2 * loss).sum()
