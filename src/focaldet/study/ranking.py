"""Row 10 of the story: does the score rank boxes by their true IoU, and what is lost if it does not?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.iou import pairwise_iou
from focaldet.evaluation.average_precision import average_precision
from focaldet.evaluation.statistics import rank_correlation
from focaldet.records.study import Ranking, Ranks
from focaldet.runtime.results import COCO_DETECTIONS, coco_results
from focaldet.structures import Detections
from focaldet.study.scenes import FOUND_IOU, Scene, best_iou

MIN_BOXES = 5
"""Fewest boxes per object for a meaningful rank correlation."""

STEP = 0.05
"""Step between COCO's IoU thresholds: 0.5, 0.55, ... 0.95."""

LOST = 1e-4
"""Boxes whose IoU differs by no more than this count as equally good."""

Suppress = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Non-maximum suppression: boxes, scores, labels -> indices that are kept, best first."""


@dataclass(frozen=True)
class GoodBoxes:
    """Predicted boxes that overlap an object with an IoU of at least ``FOUND_IOU``, regardless of score.

    Args:
        object: ``(N,)`` index of the object with the highest IoU; iou: ``(N,)`` that IoU.
        class_score, score: ``(N,)`` scores for the class of that object.
        quality: ``(N,)`` output of the quality branch, or ``None``.
    """

    object: Int64[Tensor, " N"]
    iou: Float[Tensor, " N"]
    class_score: Float[Tensor, " N"]
    quality: Float[Tensor, " N"] | None
    score: Float[Tensor, " N"]


def good_boxes(scene: Scene, first_object: int = 0) -> GoodBoxes:
    """Find the good boxes of a photo.

    Args:
        scene: the photo.
        first_object: index of its first object, counted over all photos.
    """
    if not len(scene.gt_labels):
        none = torch.zeros(0)
        return GoodBoxes(none.long(), none, none, None if scene.quality is None else none, none)
    iou, best = pairwise_iou(scene.boxes_xyxy, scene.gt_xyxy).max(dim=1)
    good = (iou >= FOUND_IOU).nonzero()[:, 0]
    best = best[good]
    label = scene.gt_labels[best]
    return GoodBoxes(
        object=best + first_object,
        iou=iou[good],
        class_score=scene.class_scores[good, label],
        quality=None if scene.quality is None else scene.quality[good],
        score=scene.scores[good, label],
    )


def _joined(parts: Sequence[GoodBoxes]) -> GoodBoxes:
    """Concatenate the good boxes of several photos."""

    def column(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    quality = None if parts[0].quality is None else column("quality")
    return GoodBoxes(column("object"), column("iou"), column("class_score"), quality, column("score"))


def ranks(values: Float[Tensor, " N"], iou: Float[Tensor, " N"], object: Int64[Tensor, " N"]) -> Ranks:
    """Rank correlation of a value with the IoU: over all boxes, and the mean over objects.

    >>> object = torch.tensor([0, 0, 0, 0, 0, 1, 1])  # two boxes are too few
    >>> iou = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.96])
    >>> ranks(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 6.0, 7.0]), iou, object)["per_object"]
    -1.0
    """
    groups = _groups(object)
    each = [rank_correlation(values[group], iou[group]) for group in groups if len(group) >= MIN_BOXES]
    known = [value for value in each if value is not None]
    return Ranks(pooled=rank_correlation(values, iou), per_object=round(sum(known) / len(known), 6) if known else None)


def _groups(keys: Tensor) -> Sequence[Tensor]:
    """Indices of each distinct key."""
    order = keys.argsort(stable=True)
    counts = torch.unique_consecutive(keys[order], return_counts=True)[1]
    return order.tensor_split(counts.cumsum(0)[:-1]) if len(keys) else []


def best_of_objects(iou: Float[Tensor, "N G"], kept: Int64[Tensor, " M"]) -> tuple[Tensor, Tensor]:
    """``(G,)`` and ``(G,)``: the best IoU with each object over all candidates, and over the kept ones.

    >>> best_of_objects(torch.tensor([[0.9], [0.6]]), torch.tensor([1]))
    (tensor([0.9000]), tensor([0.6000]))
    """
    none = iou.new_zeros(1, iou.shape[1])
    return torch.cat([iou, none]).amax(dim=0), torch.cat([iou[kept], none]).amax(dim=0)


def thresholds_met(iou: Tensor) -> Tensor:
    """How many of COCO's ten IoU thresholds a box meets.

    >>> thresholds_met(torch.tensor([0.49, 0.5, 0.549, 0.55, 0.95, 1.0]))
    tensor([ 0,  1,  1,  2, 10, 10])
    """
    return ((iou - FOUND_IOU) / STEP + 1 + 1e-4).floor().clamp(0, 10).long()


def true_scores(scene: Scene) -> Float[Tensor, " N"]:
    """``(N,)`` highest IoU of each candidate with an object of its class."""
    return best_iou(scene.candidate_iou)


class RankingMeasure:
    """Collect the ranking results of all photos of a split.

    Args:
        suppress: non-maximum suppression.
    """

    def __init__(self, suppress: Suppress) -> None:
        self.suppress = suppress
        self.good: list[GoodBoxes] = []
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.oracle: list[dict[str, Any]] = []
        self.objects = 0

    def add(self, scene: Scene) -> None:
        """Add a photo."""
        self.good.append(good_boxes(scene, self.objects))
        self.objects += len(scene.gt_labels)
        boxes = scene.candidates
        before, after = best_of_objects(scene.candidate_iou, scene.kept)
        self.before.append(before)
        self.after.append(after)
        truth = true_scores(scene)
        kept = self.suppress(boxes.boxes_xyxy, truth, boxes.labels)
        self.oracle += coco_results(scene.image_id, Detections(boxes.boxes_xyxy[kept], truth[kept], boxes.labels[kept]))

    def result(self, truth: dict[str, Any], max_detections: int = COCO_DETECTIONS) -> Ranking:
        """The result over all photos.

        Args:
            truth: the photos and their labels as a COCO data set.
            max_detections: number of detections per photo that count in AP.
        """
        good = _joined(self.good)
        before, after = torch.cat(self.before), torch.cat(self.after)
        there = before >= FOUND_IOU
        before, after = before[there], after[there]
        return Ranking(
            sites=len(good.iou),
            objects=torch.unique(good.object).numel(),
            class_score=ranks(good.class_score, good.iou, good.object),
            quality=None if good.quality is None else ranks(good.quality, good.iou, good.object),
            score=ranks(good.score, good.iou, good.object),
            candidates_objects=len(before),
            best_lost=int((after < before - LOST).sum()),
            best_lost_threshold=int((thresholds_met(after) < thresholds_met(before)).sum()),
            iou_before=_mean(before),
            iou_after=_mean(after),
            oracle_AP=average_precision(truth, self.oracle, max_detections=max_detections).metrics["AP"],
        )


def _mean(values: Tensor) -> float | None:
    return round(float(values.mean()), 6) if len(values) else None
