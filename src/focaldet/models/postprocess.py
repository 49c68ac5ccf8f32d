"""From the head's raw maps to detections: threshold, top candidates, decode what survives, non-maximum suppression."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from focaldet.boxes.formats import clip_boxes
from focaldet.boxes.locations import Lattice
from focaldet.structures import Detections, HeadOutputs

Decode = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(numbers of N sites (N, D), their points (N, 2), their strides (N,)) to boxes (N, 4) and side deviations (N, 4)."""


class PostProcess(nn.Module):
    """Detections of each image of a batch.

    The threshold is applied to logits, so that no sigmoid runs over all sites; only the sites that are still candidates
    are decoded.

    Args:
        decode: the method's way to read a box.
        strides: of the levels, in pixels.
        score_threshold: every detection's score is above it; in [0, 1).
        candidates: best (site, class) pairs of each level that go on.
        nms_iou: a box is dropped that overlaps a better one of its class by more.
        max_detections: best boxes of an image.
        offset: centre of a cell, see ``Lattice``.
    """

    def __init__(
        self,
        decode: Decode,
        strides: tuple[int, ...],
        *,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        nms_iou: float = 0.6,
        max_detections: int = 100,
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        self.decode = decode
        self.strides = strides
        self.score_threshold = score_threshold
        self.candidates = candidates
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.offset = offset

    @torch.no_grad()
    def forward(self, outputs: HeadOutputs, image_sizes: list[tuple[int, int]]) -> list[Detections]:
        """
        Args:
            outputs: raw maps of a batch.
            image_sizes: (height, width) of each image's content; boxes are cut to it.
        """
        lattice = Lattice(outputs.level_shapes, self.strides, self.offset)
        points = lattice.points(outputs.class_logits[0].device)
        strides = lattice.site_strides(points.device)
        return [
            self._one_image(outputs, image, size, points, strides, lattice) for image, size in enumerate(image_sizes)
        ]

    def _one_image(
        self,
        outputs: HeadOutputs,
        image: int,
        size: tuple[int, int],
        points: Tensor,
        strides: Tensor,
        lattice: Lattice,
    ) -> Detections:
        t = self.score_threshold
        logit_threshold = math.log(t / (1 - t)) if t > 0 else -math.inf
        logits, labels, sites, numbers = [], [], [], []
        for level, start in enumerate(lattice.level_starts):
            class_logits = outputs.class_logits[level][image].permute(1, 2, 0).flatten(0, 1).float()  # (HW, C)
            best, index = class_logits.flatten().topk(min(self.candidates, class_logits.numel()))
            above = best > logit_threshold  # a NaN sorts first and is not above
            best, index = best[above], index[above]
            site, label = index // class_logits.shape[1], index % class_logits.shape[1]
            logits.append(best)
            labels.append(label)
            sites.append(site + start)
            numbers.append(outputs.box_outputs[level][image].flatten(1).T[site].float())
        site = torch.cat(sites)
        boxes, deviation = self.decode(torch.cat(numbers), points[site], strides[site])
        boxes = clip_boxes(boxes, *size)
        scores, label = torch.cat(logits).sigmoid(), torch.cat(labels)
        keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1).nonzero()[:, 0]
        keep = keep[batched_nms(boxes[keep], scores[keep], label[keep], self.nms_iou)][: self.max_detections]
        return Detections(boxes[keep], scores[keep], label[keep], None if deviation is None else deviation[keep])
