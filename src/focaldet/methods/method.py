"""The interface of all methods, and their exchangeable class loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from focaldet.assign.task_aligned import Candidates
from focaldet.boxes.locations import Lattice, Locations
from focaldet.methods.box_loss import BoxLoss, box_loss
from focaldet.methods.class_loss import (
    EQUALIZED,
    OF_QUALITY,
    ClassLoss,
    GradientBalance,
    class_loss,
    class_targets,
)
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.models.postprocess import ScoreRule
from focaldet.structures import Assignment, GroundTruth, HeadOutputs

QualityBranch = Literal["none", "centerness", "distribution"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Assignment, losses and box decoding of a dense detector: the columns of the table of methods.

    Args:
        class_loss: the target of a positive is 1, or the IoU of its predicted box for a loss in ``OF_QUALITY``.
        alpha, gamma: weight of positives (``None``: off; or one per class) and focusing exponent of the focal loss.
        beta: focusing exponent of the quality focal loss.
        box_loss, giou_weight: loss of a positive's box (``"log_iou"``: ``-ln IoU``), and its weight.
    """

    class_loss: ClassLoss = "focal"
    alpha: float | tuple[float, ...] | None = 0.25
    gamma: float = 2.0
    beta: float = 2.0
    box_loss: BoxLoss = "giou"
    giou_weight: float = 2.0

    anchors_per_location = 1
    warm_up = 0.0
    """Share of the training in which ``assign`` chooses the positives of a method that has ``candidates``."""

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

    def candidates(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Candidates | None:
        """Pairs of an object and a location, from which the predictions choose the positives; ``None``: ``assign``
        chooses without predictions."""
        return None

    def losses_of_candidates(
        self, outputs: HeadOutputs, unmatched: Assignment, candidates: Positives
    ) -> dict[str, Tensor]:
        """``losses`` after ``warm_up``: the predictions choose the positives from the candidates."""
        raise NotImplementedError(f"{type(self).__name__} has no candidates")

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
        normalizer: Tensor | None = None,
        inplace_grad: bool = False,
    ) -> Tensor:
        """The class loss over all locations, divided by the number of positives in the whole batch (at least 1).

        Args:
            class_logits: maps ``(B, A * C, H, W)``.
            iou: ``(N,)`` IoU of each positive's predicted box with its object, detached.
            normalizer: divides the loss instead of the number of positives.
            inplace_grad: the logits are not needed afterwards, so their gradient may overwrite them.
        """
        return class_loss(
            self,
            class_logits,
            class_targets(assignment, positives, iou if self.class_loss in OF_QUALITY else None),
            normalizer=count_positives(positives) if normalizer is None else normalizer,
            inplace_grad=inplace_grad,
        )

    def box_term(self, boxes: Tensor, gt_boxes: Tensor, weight: Tensor | None, total: Tensor) -> Tensor:
        """The weighted sum of the box losses of the positives, divided by ``total``."""
        return self.giou_weight * box_loss(self.box_loss, boxes, gt_boxes, weight, total)


def count_positives(positives: Positives) -> Tensor:
    """Number of positives in the whole batch divided by the number of processes, at least 1."""
    return mean_over_processes(positives.boxes_xyxy.new_full((), float(positives.gt.numel()))).clamp(min=1.0)
