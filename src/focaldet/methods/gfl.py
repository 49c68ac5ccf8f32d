"""Generalized Focal Loss (Li et al., NeurIPS 2020, arXiv 2006.04388).

| per location | assignment | box coding                 | class loss    | box loss                        |
|--------------|------------|----------------------------|---------------|---------------------------------|
| 1 anchor     | ATSS       | distributions of distances | quality focal | GIoU + distribution focal       |

    L = 1/N_pos sum_all QFL + 1/N_w sum_pos w ( 2 GIoU + 1/4 mean over the four sides of DFL )

``w`` is the largest class probability of a location, detached, and ``N_w`` the sum over all positives.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focaldet.assign.atss import assign_atss
from focaldet.boxes.coding import decode_distances, distribution_mean, distribution_std, encode_distances
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice, Locations
from focaldet.checks import check_range
from focaldet.functional import distribution_focal_loss
from focaldet.methods.class_loss import ClassLoss
from focaldet.methods.method import Method
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.methods.scores import score_weights
from focaldet.structures import Assignment, GroundTruth, HeadOutputs

MAX_BINS = 1024
"""Largest number of bins per side: more strides than any photo has."""

CLAMP_MARGIN = 0.1
"""Targets end this far before the last bin, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class GFL(Method):
    """The method.

    Args:
        num_bins: number of bins per side, 0 .. num_bins-1 strides (the papers' reg_max is num_bins - 1).
        top_k: number of ATSS candidates per level.
        anchor_scale: side of the ATSS anchor, in strides.
        distribution_weight: weight of distribution focal loss. It applies to the mean over the
            four sides, as in the authors' code. Applied to the sum, the term would be four times as large.
        weight_floor: lower bound on the sum of score weights that normalises the box terms; 1 in mmdetection. Initial
            scores are about ``prior_prob``, so a bound of 1 scales the box terms down unless a device has many objects,
            and training on a small data set or a single device starts slowly.
    """

    class_loss: ClassLoss = "quality_focal"
    num_bins: int = 17
    top_k: int = 9
    anchor_scale: float = 8.0
    distribution_weight: float = 0.25
    weight_floor: float = 1e-6

    def __post_init__(self) -> None:
        check_range("num_bins", self.num_bins, 2, MAX_BINS)

    @property
    def num_box_channels(self) -> int:
        return 4 * self.num_bins

    def assign(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Assignment:
        return assign_atss(truth, lattice, top_k=self.top_k, anchor_scale=self.anchor_scale, image_sizes=image_sizes)

    def losses(self, outputs: HeadOutputs, assignment: Assignment, positives: Positives) -> dict[str, Tensor]:
        return self.losses_of_scores(outputs.class_logits, outputs.box_maps, assignment, positives)

    def losses_of_scores(
        self,
        class_logits: list[Tensor],
        box_maps: list[Tensor],
        assignment: Assignment,
        positives: Positives,
        *,
        inplace_grad: bool = False,
    ) -> dict[str, Tensor]:
        """The loss terms, from the logits of the final scores. ``inplace_grad``: see ``class_term``."""
        sides, boxes = self.sides_and_boxes(box_maps, positives)
        iou = paired_iou(boxes.detach(), positives.boxes_xyxy)
        terms = self.box_terms(sides, boxes, positives, score_weights(class_logits, assignment, positives))
        # Last, because in place it overwrites the logits, which the score weights need, with their gradient.
        return {"class": self.class_term(class_logits, assignment, positives, iou, inplace_grad=inplace_grad)} | terms

    def score_logits(self, outputs: HeadOutputs, positives: Positives) -> Tensor:
        """The logits ``(N, C)`` of the final scores of the positives."""
        return positives.gather(outputs.class_logits, outputs.class_logits[0].shape[1]).float()

    def side_logits(self, box_maps: list[Tensor], positives: Positives) -> Tensor:
        """The logits of the distributions ``(N, 4, K)``."""
        return positives.gather(box_maps, self.num_box_channels).float().view(-1, 4, self.num_bins)

    def sides_and_boxes(self, box_maps: list[Tensor], positives: Positives) -> tuple[Tensor, Tensor]:
        """The logits of the distributions ``(N, 4, K)`` and the decoded boxes ``(N, 4)``."""
        sides = self.side_logits(box_maps, positives)
        locations = positives.locations
        return sides, decode_distances(locations.points_xy, locations.strides, distribution_mean(sides))

    def box_terms(self, sides: Tensor, boxes: Tensor, positives: Positives, weight: Tensor) -> dict[str, Tensor]:
        """The box terms, weighted by ``(N,)`` and divided by the sum of the weights."""
        locations, gt_boxes = positives.locations, positives.boxes_xyxy
        options: dict[str, Any] = {"reduction": "sum"}
        options["normalizer"] = mean_over_processes(weight.sum()).clamp(min=self.weight_floor)
        targets = encode_distances(locations.points_xy, locations.strides, gt_boxes)
        targets = targets.clamp(0, self.num_bins - 1 - CLAMP_MARGIN)
        distribution = distribution_focal_loss(sides, targets, weight=weight[:, None], **options)
        return {
            "box": self.box_term(boxes, gt_boxes, weight, options["normalizer"]),
            "distribution": self.distribution_weight / 4 * distribution,
        }

    def beyond_reach(self, positives: Positives) -> int:
        """Number of objects with a side beyond the last bin, whose predicted boxes are too small."""
        distances = encode_distances(positives.locations.points_xy, positives.locations.strides, positives.boxes_xyxy)
        return int(torch.unique(positives.gt[distances.amax(dim=1) > self.num_bins - 1]).numel())

    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, Tensor]:
        sides = box_params.view(-1, 4, self.num_bins)
        boxes = decode_distances(locations.points_xy, locations.strides, distribution_mean(sides))
        return boxes, distribution_std(sides) * locations.strides[:, None]
