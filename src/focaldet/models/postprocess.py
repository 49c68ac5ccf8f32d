"""From the head's raw maps to detections: threshold, top candidates, decode what survives, non-maximum suppression."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from focaldet.boxes.formats import clip_boxes
from focaldet.boxes.locations import Lattice, Sites, fitted_steps
from focaldet.checks import check_range
from focaldet.models.joint import joint_logits
from focaldet.models.suppression import suppress_by_class
from focaldet.structures import Detections, HeadOutputs

CANDIDATES_OF_A_DETECTION = 10
"""Least number of a level's candidates for each detection of an image: the usual 1000 for the usual 100."""


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
class Reading:
    """How boxes are read from a network's maps, as published networks differ in it.

    Args:
        score_threshold: every detection's score is above it, or its class probability (``ScoreRule.threshold_on``); in
            [0, 1).
        candidates: best (site, class) pairs of each level that go on. Here and in the suppression, of equal scores the
            first site's is the better, of one site the first class's.
        nms_iou: a box is dropped that overlaps a better one of its class by more; ``None``: no suppression.
        max_detections: best boxes of an image.
        keep_empty: boxes that the image cuts to nothing stay, as in torchvision.
        offset, shift_px: centre of a cell, see ``Lattice``.
        steps: pixels between neighbouring locations: the level's stride, or ``fitted_steps``.
        last_pixel: a box's right and bottom side are the last row and column of pixels in it, as in mmdetection before
            version 2: in a photo it ends one pixel farther. See ``to_photo``.
    """

    score_threshold: float = 0.05
    candidates: int = 1000
    nms_iou: float | None = 0.6
    max_detections: int = 100
    keep_empty: bool = False
    offset: float = 0.5
    shift_px: float = 0.0
    steps: Literal["stride", "fitted"] = "stride"
    last_pixel: bool = False

    def __post_init__(self) -> None:
        check_range("score_threshold", self.score_threshold, 0, 1)
        check_range("candidates", self.candidates, 1)
        check_range("max_detections", self.max_detections, 1)
        check_range("nms_iou", 0 if self.nms_iou is None else self.nms_iou, 0, 1)

    def with_room(self, max_detections: int) -> "Reading":
        """The same for so many detections of an image.

        Before the suppression there are many boxes around each object, and those of the surest objects could be all
        that a level's candidates have room for. So their number grows too.

        >>> Reading().with_room(600).candidates, Reading().with_room(20).candidates
        (6000, 1000)
        """
        candidates = max(self.candidates, CANDIDATES_OF_A_DETECTION * max_detections)
        return replace(self, max_detections=max_detections, candidates=candidates)


class BoxReader(Protocol):
    """What post-processing asks of a method."""

    anchors_per_location: int

    @property
    def score_rule(self) -> ScoreRule:
        """How class and quality make the score."""

    def sites(self, lattice: Lattice, device: torch.device | str | None = None) -> Sites:
        """The geometry of all prediction sites, in the lattice's order."""

    def decode(self, numbers: Tensor, sites: Sites) -> tuple[Tensor, Tensor | None]:
        """Numbers of N sites ``(N, D)`` to boxes ``(N, 4)`` and side deviations ``(N, 4)``, in pixels."""


@dataclass(frozen=True)
class Candidates:
    """The boxes of one image that go into the suppression.

    Args:
        boxes_xyxy, scores, labels: ``(N, 4)`` pixels, ``(N,)``, ``(N,)``.
        site: ``(N,)`` the place in the lattice's order where each was predicted.
        numbers: ``(N, D)`` what the head says of each box.
        side_std_px: ``(N, 4)`` for distributions.
    """

    boxes_xyxy: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    site: Int64[Tensor, " N"]
    numbers: Float[Tensor, "N D"]
    side_std_px: Float[Tensor, "N 4"] | None

    def __getitem__(self, index: Tensor) -> "Candidates":
        deviation = None if self.side_std_px is None else self.side_std_px[index]
        boxes, scores, labels = self.boxes_xyxy[index], self.scores[index], self.labels[index]
        return Candidates(boxes, scores, labels, self.site[index], self.numbers[index], deviation)


class PostProcess(nn.Module):
    """Detections of each image of a batch.

    The threshold is applied to logits, so that no sigmoid runs over all sites; only the sites that are still candidates
    are decoded.

    Args:
        method: how scores are made and boxes are read.
        strides: of the levels, in pixels.
        reading: the numbers, and what published networks do in several ways.
        changes: fields of it by name, instead of its own.
    """

    def __init__(
        self, method: BoxReader, strides: tuple[int, ...], reading: Reading = Reading(), **changes: Any
    ) -> None:
        super().__init__()
        self.method = method
        self.strides = strides
        self.reading = replace(reading, **changes)

    @property
    def threshold(self) -> float:
        """The score threshold on the logit that is compared with it."""
        rule, least = self.method.score_rule, self.reading.score_threshold
        return _logit(least**2 if rule.combine == "sqrt" and rule.threshold_on == "score" else least)

    @torch.no_grad()
    def forward(self, outputs: HeadOutputs, image_sizes: list[tuple[int, int]]) -> list[Detections]:
        """
        Args:
            outputs: raw maps of a batch.
            image_sizes: (height, width) of each image's content; boxes are cut to it.
        """
        sites = self.sites(outputs)
        return [self._one_image(outputs, image, size, sites) for image, size in enumerate(image_sizes)]

    def sites(self, outputs: HeadOutputs) -> Sites:
        """The geometry of the maps' sites."""
        shapes, reading = outputs.level_shapes, self.reading
        steps = fitted_steps(shapes, self.strides) if reading.steps == "fitted" else None
        lattice = Lattice(shapes, self.strides, reading.offset, reading.shift_px, steps)
        return self.method.sites(lattice, outputs.class_logits[0].device)

    def _one_image(self, outputs: HeadOutputs, image: int, size: tuple[int, int], sites: Sites) -> Detections:
        found = self.candidates(outputs, image, size, sites)
        keep = self.suppress(found.boxes_xyxy, found.scores, found.labels)
        return Detections(found.boxes_xyxy, found.scores, found.labels, found.side_std_px)[keep]

    @torch.no_grad()
    def candidates(self, outputs: HeadOutputs, image: int, size: tuple[int, int], sites: Sites) -> Candidates:
        """What goes into the suppression.

        Args:
            image: its place in the batch.
            size: (height, width) of its content.
            sites: of these maps.
        """
        anchors, start = self.method.anchors_per_location, 0
        scores, labels, chosen, numbers = [], [], [], []
        for level, class_map in enumerate(outputs.class_logits):
            class_logits = _by_site(class_map[image], anchors)  # (H W A, C)
            quality = (
                None if outputs.quality_logits is None else _by_site(outputs.quality_logits[level][image], anchors)
            )
            score, site, label = self._best_of_level(class_logits, quality)
            scores.append(score)
            labels.append(label)
            chosen.append(site + start)
            numbers.append(_by_site(outputs.box_outputs[level][image], anchors)[site].float())
            start += class_logits.shape[0]
        site = torch.cat(chosen)
        boxes, deviation = self.method.decode(torch.cat(numbers), sites[site])
        reading, last = self.reading, int(self.reading.last_pixel)
        boxes = clip_boxes(boxes, size[0] - last, size[1] - last)
        found = Candidates(boxes, torch.cat(scores), torch.cat(labels), site, torch.cat(numbers), deviation)
        sides = boxes[:, 2:] - boxes[:, :2]
        return found[(sides >= 0 if reading.keep_empty else sides > 0).all(dim=1).nonzero()[:, 0]]

    def suppress(self, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor) -> Int64[Tensor, " M"]:
        """Which boxes stay, best first."""
        most, iou = self.reading.max_detections, self.reading.nms_iou
        if iou is None:
            return scores.argsort(descending=True, stable=True)[:most]
        return suppress_by_class(boxes_xyxy, scores, labels, iou, most)

    def _best_of_level(self, class_logits: Tensor, quality_logits: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Score, site and label of a level's best (site, class) pairs above the threshold, in the sites' order."""
        rule = self.method.score_rule
        root = rule.combine == "sqrt"
        on_score = rule.threshold_on == "score"
        threshold = self.threshold
        # The product of two probabilities is below each of them, so this drops no candidate; nor is NaN above anything.
        # Sites with a class above it are few and found first: looking pair by pair takes thrice as long.
        site = (class_logits.amax(dim=1) > threshold).nonzero()[:, 0]
        row, label = (class_logits[site] > threshold).nonzero(as_tuple=True)
        site = site[row]
        ranked = joint = class_logits[site, label].float()
        if quality_logits is not None and rule.combine != "class":
            joint = joint_logits(ranked, quality_logits[site, 0])
            if on_score:
                above = (joint > threshold).nonzero()[:, 0]
                ranked, joint, site, label = joint[above], joint[above], site[above], label[above]
        if ranked.numel() > self.reading.candidates:
            # Of equal ones the first sites, on every device: topk would take any. Then back in the sites' order, by
            # which the suppression, too, decides between equal scores.
            best = ranked.argsort(descending=True, stable=True)[: self.reading.candidates].sort().values
            joint, site, label = joint[best], site[best], label[best]
        score = joint.sigmoid()
        return score.sqrt() if root else score, site, label


def _by_site(numbers: Tensor, anchors: int) -> Tensor:
    """A map ``(A * D, H, W)`` as ``(H W A, D)``, in the lattice's order."""
    return numbers.permute(1, 2, 0).reshape(-1, numbers.shape[0] // anchors)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf
