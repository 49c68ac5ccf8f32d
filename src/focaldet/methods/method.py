"""The interface of all methods, and their exchangeable class loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from focaldet.boxes.locations import Lattice, Locations
from focaldet.methods.box_loss import BoxLoss, box_loss
from focaldet.methods.class_loss import EQUALIZED, OF_QUALITY, ClassLoss, GradientBalance, class_loss
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.models.postprocess import ScoreRule
from focaldet.structures import BACKGROUND, IGNORED, Assignment, GroundTruth, HeadOutputs, SparseTargets

QualityBranch = Literal["none", "centerness", "distribution"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Assignment, losses and box decoding of a dense detector: the columns of the table of methods.

    Args:
        class_loss: the target for the class of a positive is 1, and with a loss ``OF_QUALITY`` the IoU of its predicted
            box.
        alpha, gamma: weight of positives (``None``: off; or one of each class) and focusing exponent of the focal loss.
        beta: focusing exponent of the quality focal loss.
        box_loss: loss of a positive's box; ``"log_iou"`` is ``-ln IoU``.
        giou_weight: weight of the box term.
    """

    class_loss: ClassLoss = "focal"
    alpha: float | tuple[float, ...] | None = 0.25
    gamma: float = 2.0
    beta: float = 2.0
    box_loss: BoxLoss = "giou"
    giou_weight: float = 2.0

    anchors_per_location = 1

    @property
    @abstractmethod
    def num_box_channels(self) -> int:
        """D, number of parameters per box."""

    @property
    def quality_branch(self) -> QualityBranch:
        """Branch of the head that predicts box quality: none, centerness, or from the distributions as in GFLv2."""
        return "none"

    @property
    def score_rule(self) -> ScoreRule:
        """How class and quality are combined into the score."""
        return ScoreRule()

    @cached_property
    def balance(self) -> GradientBalance | None:
        """Memory of an equalized class loss."""
        return GradientBalance() if self.class_loss in EQUALIZED else None

    def locations(self, lattice: Lattice, device: torch.device | str | None = None) -> Locations:
        """Geometry of all locations, in lattice order, one entry per anchor."""
        return Locations(lattice.points(device), lattice.location_strides(device))

    @abstractmethod
    def assign(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Assignment:
        """Assign objects to locations. ``image_sizes``: ``(B, 2)`` (height, width) if the images are padded."""

    @abstractmethod
    def losses(self, outputs: HeadOutputs, assignment: Assignment, positives: Positives) -> dict[str, Tensor]:
        """The weighted loss terms of a batch, whose sum is minimised.

        In a batch without objects, the classifier still learns that everything is background; the other terms are 0.
        """

    @abstractmethod
    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, Tensor | None]:
        """Boxes ``(N, 4)`` in pixels from box parameters ``(N, D)``. For distributions, also the standard deviation of
        each side in pixels."""

    def beyond_reach(self, positives: Positives) -> int:
        """Number of objects with a side that the box coding cannot represent from one of their locations."""
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
            iou: ``(N,)`` IoU of each positive's predicted box with its object, detached.
            inplace_grad: the logits are not needed afterwards, so their gradient may overwrite them.
        """
        matched = assignment.matched_gt
        labels = torch.where(matched == IGNORED, matched, BACKGROUND)
        labels[positives.image, positives.location] = positives.labels
        quality = None
        if self.class_loss in OF_QUALITY:
            quality = iou.new_zeros(matched.shape)
            quality[positives.image, positives.location] = iou
        return class_loss(
            self.class_loss,
            class_logits,
            SparseTargets(labels, quality),
            num_classes=_classes(class_logits, assignment),
            alpha=self.alpha,
            gamma=self.gamma,
            beta=self.beta,
            balance=self.balance,
            normalizer=count_positives(positives),
            inplace_grad=inplace_grad,
        )

    def box_term(self, boxes: Tensor, gt_boxes: Tensor, weight: Tensor | None, total: Tensor) -> Tensor:
        """The box loss of the positives ``(N, 4)``, each times its ``weight``, over ``total``."""
        return self.giou_weight * box_loss(self.box_loss, boxes, gt_boxes, weight, total)


def count_positives(positives: Positives) -> Tensor:
    """Number of positives in the whole batch divided by the number of processes, at least 1."""
    return mean_over_processes(positives.boxes_xyxy.new_full((), float(positives.gt.numel()))).clamp(min=1.0)


def score_weights(class_logits: list[Tensor], assignment: Assignment, positives: Positives) -> Tensor:
    """Largest class probability ``(N,)`` of each positive, detached: the weight of its box in GFL."""
    channels = _classes(class_logits, assignment)
    logits = positives.gather([level.detach() for level in class_logits], channels)
    return logits.float().amax(dim=-1).sigmoid()


def _classes(class_logits: list[Tensor], assignment: Assignment) -> int:
    num_cells = sum(level.shape[2] * level.shape[3] for level in class_logits)
    return class_logits[0].shape[1] * num_cells // assignment.matched_gt.shape[1]
