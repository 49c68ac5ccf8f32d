"""The training step of TOOD and RTMDet: on GFL's head, predictions choose the positives and set their targets."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from focaldet.assign.task_aligned import Candidates, list_candidates
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice
from focaldet.methods.gfl import GFL
from focaldet.methods.normalizer import mean_over_processes
from focaldet.methods.positives import Positives
from focaldet.structures import Assignment, GroundTruth, HeadOutputs


@dataclass(frozen=True, kw_only=True)
class ChosenByPredictions(GFL):
    """GFL whose positives are chosen in the training step, among the locations inside the objects.

    With the target t of each positive, and N_t the sum of t:

        L = 1/N_t ( sum_all QFL(t) + sum_pos t ( 2 GIoU + 1/4 mean over the four sides of DFL ) )
    """

    def candidates(self, truth: GroundTruth, lattice: Lattice, image_sizes: Tensor | None = None) -> Candidates:
        return list_candidates(truth, lattice, image_sizes=image_sizes)

    @abstractmethod
    def choose(
        self, class_logits: list[Tensor], pairs: Candidates, candidates: Positives, iou: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose the positives among N candidates.

        Args:
            class_logits: maps ``(B, C, H, W)``.
            pairs, candidates: the candidates, as pairs and as if all were positives.
            iou: ``(N,)`` IoU of each candidate's predicted box with its object, detached.

        Returns:
            Their indices among the candidates, and their targets.
        """

    def losses_of_candidates(
        self, outputs: HeadOutputs, unmatched: Assignment, candidates: Positives
    ) -> dict[str, Tensor]:
        sides, boxes = self.sides_and_boxes(outputs.box_maps, candidates)
        iou = paired_iou(boxes.detach(), candidates.boxes_xyxy)
        pairs = Candidates(candidates.gt, candidates.image, candidates.location, unmatched)
        chosen, target = self.choose(outputs.class_logits, pairs, candidates, iou)

        positives = candidates[chosen]
        total = mean_over_processes(target.sum()).clamp(min=1.0)
        terms = self.box_terms(sides[chosen], boxes[chosen], positives, target)
        return {"class": self.class_term(outputs.class_logits, unmatched, positives, target, normalizer=total)} | terms
