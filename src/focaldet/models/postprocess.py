"""From the head's raw maps to detections: threshold, top candidates, decode what survives, non-maximum suppression."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from focaldet.boxes.formats import clip_boxes
from focaldet.boxes.locations import Lattice, Locations, fitted_steps
from focaldet.checks import check_range
from focaldet.models.joint import joint_logits
from focaldet.models.nms import batched_nms
from focaldet.structures import Detections, HeadOutputs

CANDIDATES_PER_DETECTION = 10
"""Least number of a level's candidates for each detection of an image: the usual 1000 for the usual 100."""

MAX_SHIFT_PX = 128
"""The coarsest stride: no location lies outside its cell."""


@dataclass(frozen=True)
class ScoreRule:
    """What a detection's score is made of, when the head has a quality branch.

    Args:
        combine: class probability alone, its product with the quality, or the square root of that product.
        threshold_on: what is compared with the score threshold and ranks the candidates before the suppression: the
            score, or the class probability alone.
    """

    combine: Literal["class", "product", "sqrt"] = "class"
    threshold_on: Literal["score", "class"] = "score"


@dataclass(frozen=True, kw_only=True)
class PostProcessConfig:
    """How boxes are read from a network's maps, as published networks differ in it.

    Args:
        score_threshold: every detection's score is above it, or its class probability (``ScoreRule.threshold_on``); in
            [0, 1).
        topk_candidates: best (location, class) pairs of each level that go on. Here and in the suppression, of equal
            scores the first location's is the better, of one location the first class's.
        nms_iou: a box is dropped that overlaps a better one of its class by more; ``None``: no suppression.
        max_detections: best boxes of an image.
        keep_empty: boxes that the image cuts to nothing stay, as in torchvision.
        offset, shift_px: centre of a cell, see ``Lattice``.
        steps: pixels between neighbouring locations: the level's stride, or ``fitted_steps``.
        last_pixel: a box's right and bottom side are the last row and column of pixels in it, as in mmdetection before
            version 2: in a photo it ends one pixel farther. See ``DetectionArrays.to_photo``.
    """

    score_threshold: float = 0.05
    topk_candidates: int = 1000
    nms_iou: float | None = 0.6
    max_detections: int = 100
    keep_empty: bool = False
    offset: float = 0.5
    shift_px: float = 0.0
    steps: Literal["stride", "fitted"] = "stride"
    last_pixel: bool = False

    def __post_init__(self) -> None:
        check_range("score_threshold", self.score_threshold, 0, 1)
        check_range("topk_candidates", self.topk_candidates, 1)
        check_range("max_detections", self.max_detections, 1)
        check_range("nms_iou", 0 if self.nms_iou is None else self.nms_iou, 0, 1)
        check_range("offset", self.offset, 0, 1)
        check_range("shift_px", self.shift_px, -MAX_SHIFT_PX, MAX_SHIFT_PX)

    def with_room(self, max_detections: int) -> "PostProcessConfig":
        """The same for so many detections of an image.

        Before the suppression there are many boxes around each object, and those of the surest objects could be all
        that a level's candidates have room for. So their number grows too.

        >>> PostProcessConfig().with_room(600).topk_candidates, PostProcessConfig().with_room(20).topk_candidates
        (6000, 1000)
        """
        topk_candidates = max(self.topk_candidates, CANDIDATES_PER_DETECTION * max_detections)
        return replace(self, max_detections=max_detections, topk_candidates=topk_candidates)


class BoxDecoder(Protocol):
    """What post-processing asks of a method."""

    anchors_per_location: int

    @property
    def num_box_channels(self) -> int:
        """D, the parameters of a box."""

    @property
    def score_rule(self) -> ScoreRule:
        """How class and quality make the score."""

    def locations(self, lattice: Lattice, device: torch.device | str | None = None) -> Locations:
        """The geometry of all prediction locations, in the lattice's order."""

    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, Tensor | None]:
        """Box parameters of N locations ``(N, D)`` to boxes ``(N, 4)`` and side deviations ``(N, 4)``, in pixels."""


@dataclass(frozen=True)
class Candidates:
    """The boxes of one image that go into the suppression.

    Args:
        boxes_xyxy, scores, labels: ``(N, 4)`` pixels, ``(N,)``, ``(N,)``.
        location: ``(N,)`` the place in the lattice's order where each was predicted.
        box_params: ``(N, D)`` output of the head for each box.
        side_std_px: ``(N, 4)`` for distributions.
    """

    boxes_xyxy: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    location: Int64[Tensor, " N"]
    box_params: Float[Tensor, "N D"]
    side_std_px: Float[Tensor, "N 4"] | None

    def __getitem__(self, index: Tensor) -> "Candidates":
        deviation = None if self.side_std_px is None else self.side_std_px[index]
        boxes, scores, labels = self.boxes_xyxy[index], self.scores[index], self.labels[index]
        return Candidates(boxes, scores, labels, self.location[index], self.box_params[index], deviation)


class PostProcess(nn.Module):
    """Detections of each image of a batch.

    The threshold is applied to logits, so that no sigmoid runs over all locations; only the locations that are still
    candidates are decoded.

    Args:
        method: how scores are made and boxes are read.
        strides: of the levels, in pixels.
        config: thresholds and limits, and what published networks do in several ways.
        changes: fields of it by name, instead of its own.
    """

    def __init__(
        self,
        method: BoxDecoder,
        strides: tuple[int, ...],
        config: PostProcessConfig = PostProcessConfig(),
        **changes: Any,
    ) -> None:
        super().__init__()
        self.method = method
        self.strides = strides
        self.config = replace(config, **changes)

    @property
    def threshold(self) -> float:
        """The score threshold on the logit that is compared with it."""
        rule, least = self.method.score_rule, self.config.score_threshold
        return _logit(least**2 if rule.combine == "sqrt" and rule.threshold_on == "score" else least)

    @torch.no_grad()
    def forward(self, outputs: HeadOutputs, image_sizes: list[tuple[int, int]]) -> list[Detections]:
        """
        Args:
            outputs: raw maps of a batch.
            image_sizes: (height, width) of each image's content; boxes are cut to it.
        """
        locations = self.locations(outputs)
        return [self._one_image(outputs, image, size, locations) for image, size in enumerate(image_sizes)]

    def locations(self, outputs: HeadOutputs) -> Locations:
        """The geometry of the maps' locations."""
        shapes, config = outputs.level_shapes, self.config
        steps = fitted_steps(shapes, self.strides) if config.steps == "fitted" else None
        lattice = Lattice(shapes, self.strides, config.offset, config.shift_px, steps)
        return self.method.locations(lattice, outputs.class_logits[0].device)

    def _one_image(self, outputs: HeadOutputs, image: int, size: tuple[int, int], locations: Locations) -> Detections:
        found = self.candidates(outputs, image, size, locations)
        keep = self.nms(found.boxes_xyxy, found.scores, found.labels)
        return Detections(found.boxes_xyxy, found.scores, found.labels, found.side_std_px)[keep]

    @torch.no_grad()
    def candidates(self, outputs: HeadOutputs, image: int, size: tuple[int, int], locations: Locations) -> Candidates:
        """What goes into the suppression.

        Args:
            image: its place in the batch.
            size: (height, width) of its content.
            locations: of these maps.
        """
        num_anchors, start = self.method.anchors_per_location, 0
        scores, labels, chosen, box_params = [], [], [], []
        for level, class_map in enumerate(outputs.class_logits):
            class_logits = _by_location(class_map[image], num_anchors)  # (H W A, C)
            maps = outputs.quality_logits
            quality_logits = None if maps is None else _by_location(maps[level][image], num_anchors)
            score, location, label = self._best_of_level(class_logits, quality_logits)
            scores.append(score)
            labels.append(label)
            chosen.append(location + start)
            box_params.append(_by_location(outputs.box_maps[level][image], num_anchors)[location].float())
            start += class_logits.shape[0]
        location = torch.cat(chosen)
        boxes, deviation = self.method.decode(torch.cat(box_params), locations[location])
        config, last = self.config, int(self.config.last_pixel)
        boxes = clip_boxes(boxes, size[0] - last, size[1] - last)
        found = Candidates(boxes, torch.cat(scores), torch.cat(labels), location, torch.cat(box_params), deviation)
        sides = boxes[:, 2:] - boxes[:, :2]
        return found[(sides >= 0 if config.keep_empty else sides > 0).all(dim=1).nonzero()[:, 0]]

    def nms(self, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor) -> Int64[Tensor, " M"]:
        """Which boxes stay, best first."""
        max_detections, iou = self.config.max_detections, self.config.nms_iou
        if iou is None:
            return scores.argsort(descending=True, stable=True)[:max_detections]
        return batched_nms(boxes_xyxy, scores, labels, iou, max_detections)

    def _best_of_level(self, class_logits: Tensor, quality_logits: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Score, location and label of a level's best (location, class) pairs above the threshold, in lattice order."""
        rule = self.method.score_rule
        root = rule.combine == "sqrt"
        on_score = rule.threshold_on == "score"
        threshold = self.threshold
        # The product of two probabilities is below each of them, so this drops no candidate; nor is NaN above anything.
        # Locations with a class above it are few and found first: looking pair by pair takes thrice as long.
        location = (class_logits.amax(dim=1) > threshold).nonzero()[:, 0]
        row, label = (class_logits[location] > threshold).nonzero(as_tuple=True)
        location = location[row]
        ranked = joint = class_logits[location, label].float()
        if quality_logits is not None and rule.combine != "class":
            joint = joint_logits(ranked, quality_logits[location, 0])
            if on_score:
                above = (joint > threshold).nonzero()[:, 0]
                ranked, joint, location, label = joint[above], joint[above], location[above], label[above]
        if ranked.numel() > self.config.topk_candidates:
            # Of equal ones the first locations, on every device: topk would take any. Then back in the locations'
            # order, by which the suppression, too, decides between equal scores.
            best = ranked.argsort(descending=True, stable=True)[: self.config.topk_candidates].sort().values
            joint, location, label = joint[best], location[best], label[best]
        score = joint.sigmoid()
        return score.sqrt() if root else score, location, label


def _by_location(level: Tensor, num_anchors: int) -> Tensor:
    """A map ``(A * D, H, W)`` as ``(H W A, D)``, in the lattice's order."""
    return level.permute(1, 2, 0).reshape(-1, level.shape[0] // num_anchors)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf
