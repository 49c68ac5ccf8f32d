"""From the head's raw maps to detections: threshold, top candidates, box decoding, non-maximum suppression."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from focaldet.boxes.level_index import level_index, level_of
from focaldet.boxes.locations import Lattice, Locations, fitted_steps
from focaldet.checks import check_range
from focaldet.models.best_few import leave_the_worst, near_the_best
from focaldet.models.joint import joint_logits
from focaldet.models.nms import batched_nms
from focaldet.structures import Detections, HeadOutputs

CANDIDATES_PER_DETECTION = 10
"""Smallest ratio of candidates per level to detections per image: the usual 1,000 to the usual 100."""

MAX_SHIFT_PX = 128
"""The coarsest stride: no location lies outside its cell."""


@dataclass(frozen=True)
class ScoreRule:
    """How class and quality combine into the score, if the head has a quality branch.

    Args:
        combine: class probability alone, its product with the quality, or the square root of that product.
        threshold_on: value that is compared with the score threshold and ranks the candidates before NMS: the score, or
            the class probability alone.
    """

    combine: Literal["class", "product", "sqrt"] = "class"
    threshold_on: Literal["score", "class"] = "score"


@dataclass(frozen=True, kw_only=True)
class PostProcessConfig:
    """How to read boxes from a network's maps; published networks differ here.

    Args:
        score_threshold: the score of every detection, or its class probability (``ScoreRule.threshold_on``), is above
            it; in [0, 1).
        topk_candidates: number of best (location, class) pairs per level that are kept. Here and in NMS, ties go to the
            first location, and then to the first class.
        nms_iou: a box is dropped if its IoU with a better one of its class exceeds this; ``None`` disables NMS.
        max_detections: number of best boxes per image.
        keep_empty: keep boxes without area after clipping, as in torchvision.
        offset, shift_px: centre of a cell, see ``Lattice``.
        steps: pixels between neighbouring locations: the level's stride, or ``fitted_steps``.
        last_pixel: a box's right and bottom sides are its last column and row of pixels, as in mmdetection before
            version 2, so in a photo it ends one pixel farther. See ``DetectionArrays.to_photo``.
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
        """A copy for another number of detections per image.

        Before NMS each object has many boxes, and the most confident objects could fill all candidates of a level. So
        the number of candidates grows too.

        >>> PostProcessConfig().with_room(600).topk_candidates, PostProcessConfig().with_room(20).topk_candidates
        (6000, 1000)
        """
        topk_candidates = max(self.topk_candidates, CANDIDATES_PER_DETECTION * max_detections)
        return replace(self, max_detections=max_detections, topk_candidates=topk_candidates)


class BoxDecoder(Protocol):
    """The part of a method that post-processing needs."""

    anchors_per_location: int

    @property
    def num_box_channels(self) -> int:
        """D, number of parameters per box."""

    @property
    def score_rule(self) -> ScoreRule:
        """How class and quality are combined into the score."""

    def locations(self, lattice: Lattice, device: torch.device | str | None = None) -> Locations:
        """Geometry of all locations, in lattice order."""

    def decode(self, box_params: Tensor, locations: Locations) -> tuple[Tensor, Tensor | None]:
        """Boxes ``(N, 4)`` and standard deviations of their sides ``(N, 4)`` in pixels, from parameters ``(N, D)``."""


@dataclass(frozen=True)
class Candidates:
    """The boxes of one image that enter NMS.

    Args:
        boxes_xyxy, scores, labels: ``(N, 4)`` pixels, ``(N,)``, ``(N,)``.
        location: ``(N,)`` index of each box's location in lattice order.
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
        method: makes scores and decodes boxes.
        strides: strides of the levels, in pixels.
        config: thresholds, limits, and conventions in which published networks differ.
        changes: fields of ``config`` to replace.
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
        """The score threshold as a logit."""
        rule, least = self.method.score_rule, self.config.score_threshold
        return _logit(least**2 if rule.combine == "sqrt" and rule.threshold_on == "score" else least)

    @torch.no_grad()
    def forward(self, outputs: HeadOutputs, image_sizes: list[tuple[int, int]]) -> list[Detections]:
        """
        Args:
            outputs: raw maps of a batch.
            image_sizes: (height, width) of each image's content; boxes are clipped to it.

        Returns:
            Detections in host memory, since NMS runs on the CPU: on a GPU it would wait for every photo, and the GPU is
            better used for the next batch.
        """
        if not image_sizes:
            return []
        found, image = self._of_batch(outputs, image_sizes, self.locations(outputs))
        counts = torch.bincount(image.cpu(), minlength=len(image_sizes)).tolist()
        parts = [torch.split(part.cpu(), counts) for part in (found.boxes_xyxy, found.scores, found.labels)]
        deviation = found.side_std_px
        none = [None] * len(counts)
        images = zip(*parts, none if deviation is None else torch.split(deviation.cpu(), counts), strict=True)
        return [self._suppressed(Detections(*of_image)) for of_image in images]

    def _suppressed(self, found: Detections) -> Detections:
        found = found[self._is_box(found.boxes_xyxy).nonzero()[:, 0]]
        return found[self.nms(found.boxes_xyxy, found.scores, found.labels)]

    def locations(self, outputs: HeadOutputs) -> Locations:
        """Geometry of the maps' locations."""
        shapes, config = outputs.level_shapes, self.config
        steps = fitted_steps(shapes, self.strides) if config.steps == "fitted" else None
        lattice = Lattice(shapes, self.strides, config.offset, config.shift_px, steps)
        return self.method.locations(lattice, outputs.class_logits[0].device)

    @torch.no_grad()
    def candidates(self, outputs: HeadOutputs, image: int, size: tuple[int, int], locations: Locations) -> Candidates:
        """The candidates of one image for NMS.

        Args:
            image: index of the image in the batch.
            size: (height, width) of its content.
            locations: locations of these maps.
        """
        one = slice(image, image + 1)
        maps = outputs.quality_logits
        alone = HeadOutputs(
            [level[one] for level in outputs.class_logits],
            [level[one] for level in outputs.box_maps],
            None if maps is None else [level[one] for level in maps],
        )
        found, _ = self._of_batch(alone, [size], locations)
        return found[self._is_box(found.boxes_xyxy).nonzero()[:, 0]]

    def _is_box(self, boxes_xyxy: Tensor) -> Tensor:
        """Whether each box still has an area after clipping to the image."""
        sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
        return (sides >= 0 if self.config.keep_empty else sides > 0).all(dim=1)

    def _of_batch(
        self, outputs: HeadOutputs, image_sizes: list[tuple[int, int]], locations: Locations
    ) -> tuple[Candidates, Int64[Tensor, " N"]]:
        """The candidates of all images, image by image and in lattice order within an image, and the image of each.

        All levels of all images are handled together, so that a GPU waits a few times per batch instead of once per
        photo and level.
        """
        config, rule, threshold = self.config, self.method.score_rule, self.threshold
        shapes, num_anchors = outputs.level_shapes, self.method.anchors_per_location
        # The product of two probabilities is below each of them, so this drops no candidate; NaN is above nothing.
        # Few locations have a class above the threshold, so they are found first: checking each pair takes three times
        # as long.
        best = torch.cat([_best_class(level, num_anchors) for level in outputs.class_logits], dim=1)
        image, location = (best[: len(image_sizes)] > threshold).nonzero(as_tuple=True)
        by_class = outputs.quality_logits is None or rule.combine == "class" or rule.threshold_on == "class"
        many = by_class and best.device.type == "cpu" and len(image) > config.topk_candidates * len(image_sizes)
        least: Tensor | None = None
        if many:
            place = image, location, level_of(shapes, num_anchors, location)
            image, location, least = leave_the_worst(best, outputs.class_logits, place, config.topk_candidates)
        index = level_index(shapes, num_anchors, image, location)
        class_logits = index.gather(outputs.class_logits, outputs.class_logits[0].shape[1] // num_anchors)
        above = class_logits > threshold
        if least is not None:
            above &= class_logits >= least[:, None]
        row, label = above.nonzero(as_tuple=True)
        ranked = joint = class_logits[row, label].float()
        if outputs.quality_logits is not None and rule.combine != "class":
            joint = joint_logits(ranked, index.gather(outputs.quality_logits, 1)[row, 0])
            if rule.threshold_on == "score":
                above = (joint > threshold).nonzero()[:, 0]
                ranked, joint, row, label = joint[above], joint[above], row[above], label[above]
        image, location = image[row], location[row]
        if ranked.numel() > config.topk_candidates:
            level = level_of(shapes, num_anchors, location)
            # The result is in lattice order again, which NMS uses to break ties.
            kept = _best_of_groups(ranked, image * len(shapes) + level, config.topk_candidates)
            joint, label, image, location = joint[kept], label[kept], image[kept], location[kept]
        score = joint.sigmoid()
        box_params = level_index(shapes, num_anchors, image, location).gather(
            outputs.box_maps, self.method.num_box_channels
        )
        boxes, deviation = self.method.decode(box_params.float(), locations[location])
        limits = torch.tensor([(width, height) * 2 for height, width in image_sizes], device=boxes.device)
        boxes = boxes.clamp(min=0).minimum((limits - int(config.last_pixel))[image])
        score = score.sqrt() if rule.combine == "sqrt" else score
        return Candidates(boxes, score, label, location, box_params.float(), deviation), image

    def nms(self, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor) -> Int64[Tensor, " M"]:
        """Indices of the boxes to keep, best first."""
        max_detections, iou = self.config.max_detections, self.config.nms_iou
        if iou is None:
            return scores.argsort(descending=True, stable=True)[:max_detections]
        return batched_nms(boxes_xyxy, scores, labels, iou, max_detections)


def _best_class(level: Tensor, num_anchors: int) -> Float[Tensor, "B P"]:
    """The largest class logit of each location of a map ``(B, A * C, H, W)``, in the lattice's order."""
    batch, _, height, width = level.shape
    best = level.view(batch, num_anchors, -1, height, width).amax(dim=2)
    return best.permute(0, 2, 3, 1).flatten(1)


def _best_of_groups(values: Float[Tensor, " N"], group: Int64[Tensor, " N"], most: int) -> Int64[Tensor, " K"]:
    """Indices of the ``most`` largest values of each group, in increasing order.

    Ties go to the first value on every device; ``topk`` would choose any.

    >>> _best_of_groups(torch.tensor([1.0, 3, 2, 3, 5]), torch.tensor([0, 0, 1, 0, 0]), 2)
    tensor([1, 2, 4])
    """
    near = near_the_best(values, group, most) if values.device.type == "cpu" else None
    if near is not None:
        values, group = values[near], group[near]
    # Integer keys: the group, then the bits of a float32, which sort like the number itself (-0 becomes 0).
    bits = (values.float() + 0.0).view(torch.int32)
    key = (group << 32) - torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = key.argsort(stable=True)
    sorted_group = group[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(sorted_group, sorted_group)
    kept: Tensor = order[rank < most].sort().values
    return kept if near is None else near[kept]


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf
