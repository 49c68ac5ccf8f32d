"""Generalized Focal Loss V2 (Li et al., CVPR 2021, arXiv 2011.12885).

| per location | assignment | box coding                 | class loss                        | box loss  |
|--------------|------------|----------------------------|-----------------------------------|-----------|
| 1 anchor     | ATSS       | distributions of distances | quality focal, on class x quality | as in GFL |

A sharp distribution indicates a good box: the four largest probabilities of each side and their mean pass through two
small layers to a quality, which multiplies the class probability in training and inference. Gradients flow through this
branch, so the quality trains the distributions too, as in the authors' code.
"""

from dataclasses import dataclass

from torch import Tensor

from focaldet.methods.gfl import GFL
from focaldet.methods.method import QualityBranch
from focaldet.methods.positives import Positives
from focaldet.models.joint import joint_logits
from focaldet.models.postprocess import ScoreRule
from focaldet.structures import Assignment, HeadOutputs


@dataclass(frozen=True, kw_only=True)
class GFLv2(GFL):
    """GFL whose score is class probability times the quality predicted from the distributions."""

    @property
    def quality_branch(self) -> QualityBranch:
        return "distribution"

    @property
    def score_rule(self) -> ScoreRule:
        return ScoreRule("product")

    def losses(self, outputs: HeadOutputs, assignment: Assignment, positives: Positives) -> dict[str, Tensor]:
        assert outputs.quality_logits is not None
        joint = [joint_logits(c, q) for c, q in zip(outputs.class_logits, outputs.quality_logits, strict=True)]
        return self.losses_of_scores(joint, outputs.box_maps, assignment, positives, inplace_grad=True)

    def score_logits(self, outputs: HeadOutputs, positives: Positives) -> Tensor:
        assert outputs.quality_logits is not None
        return joint_logits(super().score_logits(outputs, positives), positives.gather(outputs.quality_logits, 1))
