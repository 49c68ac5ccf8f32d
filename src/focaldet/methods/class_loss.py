"""The class losses that every method can take (``--class-loss``), and the memory of the equalized ones."""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from focaldet import functional
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.structures import BACKGROUND, IGNORED, Assignment, SparseTargets

ClassLoss = Literal[
    "bce", "focal", "quality_focal", "varifocal", "mal", "ia_bce", "equalized_focal", "equalized_quality"
]

OF_QUALITY = ("quality_focal", "varifocal", "mal", "ia_bce", "equalized_quality")
"""Class losses whose target for a positive is the IoU of its box, so that the score measures the box too."""

EQUALIZED = ("equalized_focal", "equalized_quality")

MIN_QUALITY = 1e-6
"""Lower bound on the quality of a positive: IA-BCE's target is above 0 even if the box is entirely wrong."""


class GradientBalance(nn.Module):
    """State of the equalized losses: the gradients of each class's positives and negatives so far.

    Attributes:
        gradients: ``(2, C)``, over all processes.
    """

    gradients: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gradients", torch.zeros(2, 0))

    def start(self, num_classes: int) -> "GradientBalance":
        """Reset the state for this number of classes."""
        self.gradients = self.gradients.new_zeros(2, num_classes)
        return self

    def of(self, num_classes: int, device: torch.device) -> Tensor:
        """The gradients so far, on the device of the logits."""
        if self.gradients.shape[1] != num_classes:
            self.start(num_classes)
        self.gradients = self.gradients.to(device)
        return self.gradients

    def add(self, sums: Tensor) -> None:
        """Add the sums of a step over all processes."""
        self.gradients += mean_over_processes(sums.to(self.gradients.dtype))


class Options(Protocol):
    """The class-loss options of a method."""

    @property
    def class_loss(self) -> ClassLoss: ...
    @property
    def alpha(self) -> float | tuple[float, ...] | None: ...
    @property
    def gamma(self) -> float: ...
    @property
    def beta(self) -> float: ...
    @property
    def balance(self) -> GradientBalance | None: ...


def class_targets(assignment: Assignment, positives: Positives, quality: Tensor | None) -> SparseTargets:
    """The targets of all locations. ``quality`` ``(N,)`` has one value per positive."""
    matched = assignment.matched_gt
    labels = torch.where(matched == IGNORED, matched, BACKGROUND)
    labels[positives.image, positives.location] = positives.labels
    if quality is None:
        return SparseTargets(labels)
    of_all = quality.new_zeros(matched.shape)
    of_all[positives.image, positives.location] = quality
    return SparseTargets(labels, of_all)


def count_classes(class_logits: list[Tensor], num_anchors: int) -> int:
    """C of maps ``(B, A * C, H, W)``, given the number of anchors of an image over all locations."""
    num_locations = sum(level.shape[2] * level.shape[3] for level in class_logits)
    return class_logits[0].shape[1] * num_locations // num_anchors


def class_loss(
    method: Options,
    logits: list[Tensor],
    targets: SparseTargets,
    *,
    normalizer: Tensor,
    inplace_grad: bool,
) -> Tensor:
    """The class loss of a batch.

    The method's α and γ apply to the focal losses, its β to the quality focal losses; the others use the constants of
    their papers. If gradients are computed, an equalized loss adds this batch to its memory.

    Args:
        logits: maps ``(B, A * C, H, W)``.
        targets: labels, and the IoU of the positives' boxes for a loss ``OF_QUALITY``.
    """
    kind, alpha, gamma, beta, balance = method.class_loss, method.alpha, method.gamma, method.beta, method.balance
    num_classes = count_classes(logits, targets.labels.shape[1])
    options: dict[str, Any] = {"reduction": "sum", "normalizer": normalizer, "inplace_grad": inplace_grad}
    if kind in EQUALIZED:
        assert balance is not None
        before = balance.of(num_classes, logits[0].device)
        if kind == "equalized_focal":
            number = None if alpha is None else float(alpha)  # type: ignore[arg-type]
            loss, sums = functional.equalized_focal_loss(
                logits, targets, before, alpha=number, gamma=gamma, normalizer=normalizer
            )
        else:
            loss, sums = functional.equalized_quality_loss(logits, targets, before, beta=beta, normalizer=normalizer)
        if torch.is_grad_enabled():
            balance.add(sums)
        return loss
    if kind == "bce":
        return functional.binary_cross_entropy(logits, targets, **options)
    if kind == "focal":
        weight = torch.tensor(alpha, device=logits[0].device) if isinstance(alpha, tuple) else alpha
        return functional.sigmoid_focal_loss(logits, targets, weight, gamma, **options)
    if kind == "quality_focal":
        return functional.quality_focal_loss(logits, targets, beta=beta, **options)
    if kind == "varifocal":
        return functional.varifocal_loss(logits, targets, **options)
    if kind == "mal":
        return functional.matchability_aware_loss(logits, targets, **options)
    assert targets.quality is not None
    least = targets.quality.clamp(min=MIN_QUALITY)
    return functional.iou_aware_bce_loss(logits, SparseTargets(targets.labels, least), **options)
