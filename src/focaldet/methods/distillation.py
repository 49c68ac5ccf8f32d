"""Localization distillation (Zheng et al., CVPR 2022, arXiv 2102.12252; arXiv 2204.05957): distributions teach others.

The teacher is a large trained detector with distributions. The student, a small one, learns from the objects and from
the teacher. At a location, the teacher's distribution of a side says more than the true position does: how sharp the
side is, and where else it might be.

    L = L(student's method) + 1/N_w ( ¼ Σ_pos w LD + ¼ Σ_val u/4 LD ) + 1/N_pos ⅛ Σ_pos KD
    LD = mean over the four sides of T² KL(teacher ‖ student), T = 10      KD = T² KL over the classes, T = 2

``pos`` are the student's positives by ATSS, ``val`` the valuable region around them (``focaldet.assign.valuable``), w
and N_w GFL's score weights and their sum, and u the IoU of a location's anchor with its object. The authors' code takes
the mean over the bins and the sum over the positives of two or three photos; here it is the sum over the bins (a full
KL) and the mean over the positives, so that the terms do not grow with the batch. Its weight of 10 on the mean over
COCO's 80 classes is ⅛ on the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from focaldet.assign.valuable import assign_valuable
from focaldet.boxes.formats import square_boxes
from focaldet.boxes.iou import paired_iou
from focaldet.data.batching import Sample
from focaldet.functional import distillation_loss
from focaldet.methods.gfl import GFL
from focaldet.methods.method import count_positives
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives, find_positives
from focaldet.methods.targets import TargetCollate, Targets, TrainingBatch
from focaldet.models.detector import DenseDetector
from focaldet.structures import GroundTruth, HeadOutputs


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The constants.

    Args:
        side_weight, side_temperature: weight and temperature for the distributions.
        valuable_weight: weight of the valuable region, multiplied by ``side_weight``.
        valuable_share: an object's valuable region begins at this share of its ATSS threshold.
        class_weight, class_temperature: weight and temperature for the class scores.
    """

    side_weight: float = 0.25
    side_temperature: float = 10.0
    valuable_weight: float = 0.25
    valuable_share: float = 0.25
    class_weight: float = 0.125
    class_temperature: float = 2.0

    def with_valuable(self, method: GFL, targets: Targets, truth: GroundTruth, image_sizes: Tensor) -> Targets:
        """The targets of a batch, with the valuable regions of its objects."""
        region = assign_valuable(
            truth,
            targets.lattice,
            targets.assignment,
            share=self.valuable_share,
            top_k=method.top_k,
            anchor_scale=method.anchor_scale,
            image_sizes=image_sizes,
        )
        locations = method.locations(targets.lattice)
        return replace(targets, valuable=find_positives(truth, region, locations, targets.lattice))

    def losses(
        self,
        method: GFL,
        outputs: HeadOutputs,
        teacher: GFL,
        taught: HeadOutputs,
        positives: Positives,
        valuable: Positives,
    ) -> dict[str, Tensor]:
        """The loss terms of a batch.

        Args:
            method, outputs: the student's.
            teacher, taught: the teacher's method and outputs, with class logits in the order of the student's classes.
            positives, valuable: the locations at which the teacher teaches.
        """
        scores = method.score_logits(outputs, positives)
        weight = scores.detach().amax(dim=-1).sigmoid()
        total = mean_over_processes(weight.sum()).clamp(min=method.weight_floor)
        at = valuable.locations
        anchors = square_boxes(at.points_xy, method.anchor_scale * at.strides)
        overlap = self.valuable_weight * paired_iou(anchors, valuable.boxes_xyxy)
        sides = self._of_sides(method, outputs, taught, positives, weight, total)
        sides = sides + self._of_sides(method, outputs, taught, valuable, overlap, total)
        classes = distillation_loss(
            scores,
            teacher.score_logits(taught, positives),
            temperature=self.class_temperature,
            reduction="sum",
            normalizer=count_positives(positives),
        )
        return {"teacher_sides": self.side_weight / 4 * sides, "teacher_class": self.class_weight * classes}

    def _of_sides(
        self, method: GFL, outputs: HeadOutputs, taught: HeadOutputs, at: Positives, weight: Tensor, total: Tensor
    ) -> Tensor:
        """The sum over the four sides of some locations, weighted and divided by ``total``."""
        own, theirs = (method.side_logits(each.box_maps, at) for each in (outputs, taught))
        return distillation_loss(
            own,
            theirs,
            temperature=self.side_temperature,
            weight=weight[:, None],
            reduction="sum",
            normalizer=total,
        )


class TaughtCollate(TargetCollate):
    """``TargetCollate`` for a student: the targets include the valuable regions."""

    def __init__(self, method: GFL, net: DenseDetector, offset: float, distillation: Distillation) -> None:
        super().__init__(method, net, offset)
        self.student, self.distillation = method, distillation

    def __call__(self, samples: Sequence[Sample]) -> TrainingBatch:
        batch = super().__call__(samples)
        assert batch.targets is not None
        taught = self.distillation.with_valuable(self.student, batch.targets, batch.truth, batch.valid_sizes)
        return batch._replace(targets=taught)
