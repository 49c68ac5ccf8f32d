"""Generalized Focal Loss (Li et al., NeurIPS 2020, arXiv 2006.04388).

| per location | assignment | box coding                 | class loss    | box loss                        |
|--------------|------------|----------------------------|---------------|---------------------------------|
| 1 anchor     | ATSS       | distributions of distances | quality focal | GIoU + distribution focal       |

    L = 1/N_pos sum_all QFL + 1/N_w sum_pos w ( 2 GIoU + 1/4 mean over the four sides of DFL )

``w`` is the detached largest class probability of the site, ``N_w`` its sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from focaldet.assign.atss import assign_atss
from focaldet.boxes.coding import decode_distances, distribution_mean, distribution_std, encode_distances
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice, flatten_levels
from focaldet.functional import distribution_focal_loss, giou_loss, quality_focal_loss
from focaldet.methods.normalizer import mean_over_processes
from focaldet.structures import IGNORED, Assignment, GroundTruth, HeadOutputs, SparseTargets

CLAMP_MARGIN = 0.1
"""A side farther than the last bin is trained towards this much short of it, as in the authors' code."""


@dataclass(frozen=True)
class GFL:
    """The method: how its head is shaped, what it is trained with, how a box is read.

    Args:
        num_bins: bins of a side's distribution, 0 .. num_bins-1 strides (the papers' reg_max is num_bins - 1).
        top_k: ATSS candidates a level.
        anchor_scale: side of the ATSS anchor, in strides.
        beta: exponent of the quality focal loss.
        giou_weight, distribution_weight: the weights of the box terms. The distribution's is on the mean over the four
            sides (the authors' code; read as a sum over the sides it would be four times this).
        weight_floor: the sum of score weights that the box terms are divided by is at least this. In mmdetection it is
            1. At the start scores are about ``prior_prob``, so a floor of 1 scales the box terms down
            until there are many objects on a device, and a small set or a single device starts slowly.
    """

    num_bins: int = 17
    top_k: int = 9
    anchor_scale: float = 8.0
    beta: float = 2.0
    giou_weight: float = 2.0
    distribution_weight: float = 0.25
    weight_floor: float = 1e-6

    @property
    def box_outputs(self) -> int:
        """Numbers that describe a site's box."""
        return 4 * self.num_bins

    def assign(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Assignment:
        """ATSS, with one square anchor a location."""
        return assign_atss(truth, lattice, top_k=self.top_k, anchor_scale=self.anchor_scale, image_sizes=image_sizes)

    def losses(
        self, outputs: HeadOutputs, truth: GroundTruth, assignment: Assignment, lattice: Lattice
    ) -> dict[str, Tensor]:
        """The loss terms of a batch, weighted: their sum is what is trained.

        Without an object in the batch the classifier still learns that all is background, and the box terms are 0.
        """
        class_logits = flatten_levels(outputs.class_logits, outputs.class_logits[0].shape[1]).float()
        side_logits = flatten_levels(outputs.box_outputs, self.box_outputs)
        matched = assignment.matched_gt
        image, site, gt = _positives(assignment)
        points, strides = lattice.points(matched.device)[site], lattice.site_strides(matched.device)[site]
        sides = side_logits[image, site].float().view(-1, 4, self.num_bins)  # (N_pos, 4, K)
        boxes = decode_distances(points, strides, distribution_mean(sides))
        gt_boxes = truth.boxes_xyxy[gt]

        labels = torch.where(matched == IGNORED, matched, -1)
        labels[image, site] = truth.labels[gt]
        quality = class_logits.new_zeros(matched.shape)
        quality[image, site] = paired_iou(boxes.detach(), gt_boxes)
        num_pos = mean_over_processes(class_logits.new_tensor(float(gt.numel()))).clamp(min=1.0)
        class_loss = quality_focal_loss(
            class_logits, SparseTargets(labels, quality), beta=self.beta, reduction="sum", normalizer=num_pos
        )

        weight = class_logits.detach()[image, site].amax(dim=-1).sigmoid()
        weight_sum = mean_over_processes(weight.sum()).clamp(min=self.weight_floor)
        # In strides, so that a level's boxes are of the size of 1; GIoU does not depend on it.
        targets = encode_distances(points, strides, gt_boxes).clamp(0, self.num_bins - 1 - CLAMP_MARGIN)
        return {
            "class": class_loss,
            "box": self.giou_weight * giou_loss(boxes, gt_boxes, weight=weight, reduction="sum", normalizer=weight_sum),
            "distribution": self.distribution_weight
            / 4
            * distribution_focal_loss(sides, targets, weight=weight[:, None], reduction="sum", normalizer=weight_sum),
        }

    def beyond_reach(self, truth: GroundTruth, assignment: Assignment, lattice: Lattice) -> int:
        """Number of objects with a positive site that one of their sides is too far from for the last bin.

        Such a side is trained towards the last bin, and the box comes out too small.
        """
        _, site, gt = _positives(assignment)
        points, strides = lattice.points(gt.device)[site], lattice.site_strides(gt.device)[site]
        distances = encode_distances(points, strides, truth.boxes_xyxy[gt])
        return int(torch.unique(gt[distances.amax(dim=1) > self.num_bins - 1]).numel())

    def decode(self, box_outputs: Tensor, points: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(N, 4)`` in pixels, and the standard deviation of each side in pixels, of ``(N, 4 K)`` numbers."""
        sides = box_outputs.view(-1, 4, self.num_bins)
        boxes = decode_distances(points, strides, distribution_mean(sides))
        return boxes, distribution_std(sides) * strides[:, None]


def _positives(assignment: Assignment) -> tuple[Tensor, Tensor, Tensor]:
    """Image, site and object of each positive, ``(N,)`` each."""
    image, site = (assignment.matched_gt >= 0).nonzero(as_tuple=True)
    return image, site, assignment.matched_gt[image, site]
