"""What the methods have in common: a class loss that can be exchanged, and the names of what differs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from focaldet.boxes.locations import Lattice, Locations
from focaldet.functional import binary_cross_entropy, quality_focal_loss, sigmoid_focal_loss
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.models.postprocess import ScoreRule
from focaldet.structures import BACKGROUND, IGNORED, Assignment, GroundTruth, HeadOutputs, SparseTargets

ClassLoss = Literal["bce", "focal", "quality_focal"]
QualityBranch = Literal["none", "centerness", "distribution"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A dense detector's assignment, losses and reading of boxes; the columns of the table of methods.

    Args:
        class_loss: ``"bce"`` and ``"focal"`` train the class of a positive towards 1, ``"quality_focal"`` towards the
            IoU of its predicted box.
        alpha, gamma: of the focal loss.
        beta: exponent of the quality focal loss.
    """

    class_loss: ClassLoss = "focal"
    alpha: float | None = 0.25
    gamma: float = 2.0
    beta: float = 2.0

    anchors_per_location = 1

    @property
    @abstractmethod
    def num_box_channels(self) -> int:
        """D, the parameters of a box."""

    @property
    def quality_branch(self) -> QualityBranch:
        """What the head says of a box's quality beside its class: nothing, a centerness, or what GFLv2 reads from the
        distributions."""
        return "none"

    @property
    def score_rule(self) -> ScoreRule:
        """How a detection's score is made of class and quality."""
        return ScoreRule()

    def locations(self, lattice: Lattice, device: torch.device | str | None = None) -> Locations:
        """The geometry of all prediction locations, in the lattice's order."""
        return Locations(lattice.points(device), lattice.location_strides(device))

    @abstractmethod
    def assign(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Assignment:
        """Which object each location is to find. ``image_sizes``: ``(B, 2)``, when the images were padded."""

    @abstractmethod
    def losses(self, outputs: HeadOutputs, assignment: Assignment, positives: Positives) -> dict[str, Tensor]:
        """The loss terms of a batch, weighted: their sum is what is trained.

        Without an object in the batch the classifier still learns that all is background, and the other terms are 0.
        """

    @abstractmethod
    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, Tensor | None]:
        """Boxes ``(N, 4)`` in pixels of ``(N, D)`` box parameters; for distributions, also the standard deviation of
        each side in pixels."""

    def beyond_reach(self, positives: Positives) -> int:
        """Number of objects with a side that the box coding cannot reach from one of their locations."""
        return 0

    def class_term(
        self,
        class_logits: list[Tensor],
        assignment: Assignment,
        positives: Positives,
        iou: Tensor,
        *,
        inplace_grad: bool = False,
    ) -> Tensor:
        """The class loss over all locations, divided by the number of positives in the whole batch (at least 1).

        Args:
            class_logits: maps ``(B, A * C, H, W)``.
            iou: ``(N,)`` detached, of each positive's predicted box with its object.
            inplace_grad: nobody else needs these logits: their gradient may take their place.
        """
        matched = assignment.matched_gt
        labels = torch.where(matched == IGNORED, matched, BACKGROUND)
        labels[positives.image, positives.location] = positives.labels
        options: dict[str, Any] = {"reduction": "sum", "normalizer": count_positives(positives)}
        options["inplace_grad"] = inplace_grad
        if self.class_loss == "bce":
            return binary_cross_entropy(class_logits, SparseTargets(labels), **options)
        if self.class_loss == "focal":
            return sigmoid_focal_loss(class_logits, SparseTargets(labels), self.alpha, self.gamma, **options)
        iou_target = iou.new_zeros(matched.shape)
        iou_target[positives.image, positives.location] = iou
        return quality_focal_loss(class_logits, SparseTargets(labels, iou_target), beta=self.beta, **options)


def count_positives(positives: Positives) -> Tensor:
    """Positives of the whole batch, a process's share of them, at least 1."""
    return mean_over_processes(positives.boxes_xyxy.new_full((), float(positives.gt.numel()))).clamp(min=1.0)


def score_weights(class_logits: list[Tensor], assignment: Assignment, positives: Positives) -> Tensor:
    """``(N,)`` the detached largest class probability of each positive: the weight of its box in GFL."""
    channels = _classes(class_logits, assignment)
    logits = positives.gather([level.detach() for level in class_logits], channels)
    return logits.float().amax(dim=-1).sigmoid()


def _classes(class_logits: list[Tensor], assignment: Assignment) -> int:
    num_cells = sum(level.shape[2] * level.shape[3] for level in class_logits)
    return class_logits[0].shape[1] * num_cells // assignment.matched_gt.shape[1]
