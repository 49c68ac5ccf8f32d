"""Centerness, and the shared parts of FCOS and ATSS: boxes with four parameters, and a centerness branch.

Tian et al., ICCV 2019, arXiv 1904.01355, equation 3.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from focaldet.boxes.coding import encode_distances
from focaldet.boxes.iou import paired_iou
from focaldet.functional import binary_cross_entropy
from focaldet.methods.class_loss import OF_QUALITY
from focaldet.methods.method import Method, QualityBranch, count_positives
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.methods.scores import score_weights
from focaldet.models.postprocess import ScoreRule
from focaldet.structures import Assignment, HeadOutputs

MIN_WEIGHT = 1e-6
"""Lower bound on the sum of box weights that normalises the box term."""


@dataclass(frozen=True, kw_only=True)
class CenternessMethod(Method):
    """A method with centerness.

    The first version of FCOS used ``box_loss="log_iou"`` (UnitBox, arXiv 1608.01471).

    Args:
        score: whether a detection's score is the product of class probability and centerness, or its square root. Both
            give the same ranking; papers and published implementations differ.
        threshold_on: whether the score threshold applies to the score or to the class probability alone.
    """

    giou_weight: float = 1.0
    score: Literal["sqrt", "product"] = "sqrt"
    threshold_on: Literal["score", "class"] = "score"

    @property
    def num_box_channels(self) -> int:
        return 4

    @property
    def quality_branch(self) -> QualityBranch:
        return "none" if self.class_loss in OF_QUALITY else "centerness"

    @property
    def score_rule(self) -> ScoreRule:
        return ScoreRule() if self.quality_branch == "none" else ScoreRule(self.score, self.threshold_on)

    def losses(self, outputs: HeadOutputs, assignment: Assignment, positives: Positives) -> dict[str, Tensor]:
        box_params = positives.gather(outputs.box_maps, self.num_box_channels)
        boxes, _ = self.decode(box_params.float(), positives.locations)
        iou = paired_iou(boxes.detach(), positives.boxes_xyxy)
        terms = {"class": self.class_term(outputs.class_logits, assignment, positives, iou)}
        if outputs.quality_logits is None:
            weight = score_weights(outputs.class_logits, assignment, positives)
        else:
            weight = centerness(positives)
            terms["centerness"] = centerness_loss(outputs.quality_logits, positives, weight)
        total = mean_over_processes(weight.sum()).clamp(min=MIN_WEIGHT)
        return terms | {"box": self.box_term(boxes, positives.boxes_xyxy, weight, total)}


def centerness(positives: Positives) -> Float[Tensor, " N"]:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))``: 1 at the centre of the object and 0 at its border.

    >>> import torch
    >>> from focaldet.boxes.locations import Locations
    >>> box, zero = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.zeros(1, dtype=torch.int64)
    >>> locations = Locations(torch.tensor([[2.0, 4.0]]), torch.tensor([8.0]))
    >>> centerness(Positives(zero, zero, zero, locations, box, zero))
    tensor([0.5774])
    """
    distances = encode_distances(positives.locations.points_xy, positives.locations.strides, positives.boxes_xyxy)
    pairs = distances.clamp(min=0).view(-1, 2, 2)  # (left, top), (right, bottom)
    return (pairs.amin(dim=1) / pairs.amax(dim=1).clamp(min=torch.finfo(pairs.dtype).tiny)).prod(dim=1).sqrt()


def centerness_loss(quality_logits: list[Tensor], positives: Positives, target: Tensor) -> Tensor:
    """Binary cross entropy of the centerness branch over the positives."""
    logits = positives.gather(quality_logits, 1)
    return binary_cross_entropy(logits, target[:, None], reduction="sum", normalizer=count_positives(positives))
