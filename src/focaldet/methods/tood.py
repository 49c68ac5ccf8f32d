"""Task-aligned One-stage Object Detection (Feng et al., ICCV 2021, arXiv 2108.07755), on GFL's head.

| per location | assignment               | box coding                 | class loss        | box loss  |
|--------------|--------------------------|----------------------------|-------------------|-----------|
| 1 anchor     | task-aligned, first ATSS | distributions of distances | quality focal (t̂) | as in GFL |

    t = s^α u^β,   t̂ = t max(u) / max(t), both maxima over the positives of the object
    L = 1/N_t ( sum_all QFL(t̂) + sum_pos t̂ ( 2 GIoU + 1/4 mean over the four sides of DFL ) )

``s`` is the score of a location for the object's class, ``u`` the IoU of its box with the object, and ``N_t`` the sum
of t̂. The positives of an object are the 13 locations inside it with the largest t, which already score and locate it
best. So the network chooses what it learns. At the start it knows nothing, so ATSS chooses for the first third of the
training, as in the paper (4 of 12 epochs). The paper's second part, a head that aligns both tasks, is left out; the
sides have GFL's distributions, as in PP-YOLOE (arXiv 2203.16250).
"""

from dataclasses import dataclass

from torch import Tensor

from focaldet.assign.task_aligned import Candidates, aligned_targets, choose_positives
from focaldet.methods.chosen import ChosenByPredictions
from focaldet.methods.positives import Positives
from focaldet.methods.scores import class_probabilities


@dataclass(frozen=True, kw_only=True)
class TOOD(ChosenByPredictions):
    """The method.

    Args:
        num_positives: largest number of positives of an object.
        score_power, iou_power: α and β of the alignment.
        warm_up: share of the training in which ATSS chooses the positives, and the losses are GFL's.
    """

    num_positives: int = 13
    score_power: float = 1.0
    iou_power: float = 6.0
    warm_up: float = 1 / 3

    def choose(
        self, class_logits: list[Tensor], pairs: Candidates, candidates: Positives, iou: Tensor
    ) -> tuple[Tensor, Tensor]:
        score = class_probabilities(class_logits, pairs.unmatched, candidates)
        alignment = score**self.score_power * iou**self.iou_power
        chosen = choose_positives(pairs, alignment, iou, self.num_positives).nonzero()[:, 0]
        return chosen, aligned_targets(alignment[chosen], iou[chosen], pairs.gt[chosen])
