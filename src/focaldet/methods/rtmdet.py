"""The dynamic soft labels of RTMDet (Lyu et al., 2022, arXiv 2212.07784, section 3.3), on GFL's head.

| per location | assignment                  | box coding                 | class loss        | box loss  |
|--------------|-----------------------------|----------------------------|-------------------|-----------|
| 1 anchor     | lowest cost, of predictions | distributions of distances | quality focal (u) | as in GFL |

    cost = sum over the classes of QFL(s, y) - 3 log u + 10^(d - 3),   y: u in the object's class, 0 in the others
    L = 1/N_u ( sum_all QFL(u) + sum_pos u ( 2 GIoU + 1/4 mean over the four sides of DFL ) )

``s`` are the scores of a location inside an object, ``u`` is the IoU of its box with the object, ``d`` its distance
from the object's centre in strides, and ``N_u`` the sum of u over the positives. An object learns at the k locations of
lowest cost, where k is the sum of its 13 largest IoUs, rounded down, and at least 1. A location that several objects
take goes to the one with the lowest cost.

The cost has the soft label that the loss has. With labels of 0 and 1, as in SimOTA, a high score would make a location
cheap, however poor its box. The network chooses from the first step on, without a warm-up: as long as it knows nothing,
the distance keeps the positives near the centre, and poor boxes keep them few.

Two things differ from the authors' code, so that the work grows with the number of candidates. A location is a
candidate for the objects that it lies in; there, one that lies in any object is a candidate for all of them. Only the
objects that take a location compete for it; there, all do. The paper's network is left out. The sides have GFL's
distributions in place of plain distances, so that only the choice of the positives and its targets differ from GFL.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from focaldet.assign.task_aligned import Candidates, choose_positives, dynamic_k
from focaldet.methods.chosen import ChosenByPredictions
from focaldet.methods.positives import Positives
from focaldet.methods.scores import quality_focal_costs

EPSILON = 1e-7
"""Added to the IoU before its logarithm."""


@dataclass(frozen=True, kw_only=True)
class RTMDet(ChosenByPredictions):
    """The method.

    Args:
        num_ious: number of IoUs whose sum is the number of positives of an object.
        iou_cost: weight of the logarithm of the IoU in the cost.
        center_radius: distance from the object's centre, in strides, that costs 1; each stride more costs 10 times as
            much.
    """

    num_ious: int = 13
    iou_cost: float = 3.0
    center_radius: float = 3.0

    def choose(
        self, class_logits: list[Tensor], pairs: Candidates, candidates: Positives, iou: Tensor
    ) -> tuple[Tensor, Tensor]:
        costs = quality_focal_costs(class_logits, pairs.unmatched, candidates, iou) + self.place_costs(candidates, iou)
        k = dynamic_k(pairs.gt, iou, self.num_ious)
        chosen = choose_positives(pairs, 1 / costs, 1 / costs, k).nonzero()[:, 0]
        return chosen, iou[chosen]

    def beyond_reach(self, positives: Positives) -> int:
        """None: ATSS's locations are not those that learn, and of the others one on a coarse level may be chosen."""
        return 0

    def place_costs(self, candidates: Positives, iou: Tensor) -> Tensor:
        """The cost of each candidate's box and of its distance from the centre, above 0."""
        centers = (candidates.boxes_xyxy[:, :2] + candidates.boxes_xyxy[:, 2:]) / 2
        distance = (candidates.locations.points_xy - centers).norm(dim=1) / candidates.locations.strides
        return torch.pow(10.0, distance - self.center_radius) - self.iou_cost * (iou + EPSILON).log()
