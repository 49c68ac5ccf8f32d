"""Predicted classes of the positives, without gradients. Weights and targets are computed from them."""

from torch import Tensor

from focaldet.functional import quality_focal_loss
from focaldet.methods.class_loss import count_classes
from focaldet.methods.positives import Positives
from focaldet.structures import Assignment, SparseTargets


def score_weights(class_logits: list[Tensor], assignment: Assignment, positives: Positives) -> Tensor:
    """Largest class probability ``(N,)`` of each positive, detached: the weight of its box in GFL."""
    return _logits(class_logits, assignment, positives).amax(dim=-1).sigmoid()


def class_probabilities(class_logits: list[Tensor], assignment: Assignment, positives: Positives) -> Tensor:
    """Probability ``(N,)`` of the class of each positive's object, detached."""
    logits = _logits(class_logits, assignment, positives)
    return logits.gather(1, positives.labels[:, None])[:, 0].sigmoid()


def quality_focal_costs(
    class_logits: list[Tensor], assignment: Assignment, positives: Positives, quality: Tensor
) -> Tensor:
    """Quality focal loss ``(N,)`` of each positive over all classes, detached; ``quality``: target of its class."""
    targets = SparseTargets(positives.labels, quality)
    return quality_focal_loss(_logits(class_logits, assignment, positives), targets).sum(dim=1)


def _logits(class_logits: list[Tensor], assignment: Assignment, positives: Positives) -> Tensor:
    """The class logits ``(N, C)`` of each positive, detached."""
    num_classes = count_classes(class_logits, assignment.matched_gt.shape[1])
    return positives.gather([level.detach() for level in class_logits], num_classes).float()
