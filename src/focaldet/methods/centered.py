"""What FCOS and ATSS share: a box of four numbers, and a centerness branch for its quality."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import gather_sites
from focaldet.functional import giou_loss, iou_loss
from focaldet.methods.centerness import centerness, centerness_loss
from focaldet.methods.method import Method, Quality, score_weights
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.models.postprocess import ScoreRule
from focaldet.structures import Assignment, HeadOutputs

LEAST_WEIGHT = 1e-6
"""Of the sum of box weights that the box term is divided by."""

LEAST_IOU = 1e-6
"""Of a box whose logarithm is taken; worse ones have no gradient."""


@dataclass(frozen=True, kw_only=True)
class Centered(Method):
    """A method with GIoU and centerness.

    Args:
        box_loss: GIoU, or ``-ln IoU`` as in the first version of FCOS (UnitBox, arXiv 1608.01471).
        giou_weight: of the box term.
        score: a detection's score is the product of class probability and centerness, or its square root. Both rank
            alike; papers and public codes differ.
        threshold_on: what is compared with the score threshold, the score or the class probability alone.
    """

    box_loss: Literal["giou", "iou"] = "giou"
    giou_weight: float = 1.0
    score: Literal["sqrt", "product"] = "sqrt"
    threshold_on: Literal["score", "class"] = "score"

    @property
    def box_outputs(self) -> int:
        return 4

    @property
    def quality(self) -> Quality:
        return "none" if self.class_loss == "quality_focal" else "centerness"

    @property
    def score_rule(self) -> ScoreRule:
        return ScoreRule() if self.quality == "none" else ScoreRule(self.score, self.threshold_on)

    def losses(self, outputs: HeadOutputs, assignment: Assignment, positives: Positives) -> dict[str, Tensor]:
        numbers = gather_sites(outputs.box_outputs, self.box_outputs, positives.image, positives.site)
        boxes, _ = self.decode(numbers.float(), positives.sites)
        iou = paired_iou(boxes.detach(), positives.boxes_xyxy)
        terms = {"class": self.class_term(outputs.class_logits, assignment, positives, iou)}
        if outputs.quality_logits is None:
            weight = score_weights(outputs.class_logits, assignment, positives)
        else:
            weight = centerness(positives)
            terms["centerness"] = centerness_loss(outputs.quality_logits, positives, weight)
        total = mean_over_processes(weight.sum()).clamp(min=LEAST_WEIGHT)
        if self.box_loss == "giou":
            box = giou_loss(boxes, positives.boxes_xyxy, weight=weight, reduction="sum", normalizer=total)
        else:
            overlap = 1 - iou_loss(boxes, positives.boxes_xyxy)
            box = -(weight * overlap.clamp(min=LEAST_IOU).log()).sum() / total
        return terms | {"box": self.giou_weight * box}
