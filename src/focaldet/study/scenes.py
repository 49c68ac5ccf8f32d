"""All outputs of a detector for one photo, together with the objects of the photo: the input of all measurements.

Axes: G objects, P locations (anchors), N candidates (boxes that enter NMS), M detections, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.formats import clip_boxes
from focaldet.boxes.iou import pairwise_iou
from focaldet.boxes.locations import flatten_levels
from focaldet.data.batching import DetectionDataset, collate
from focaldet.data.truth import CocoId, image_ids
from focaldet.engine.detector import Detector
from focaldet.models.postprocess import Candidates
from focaldet.runtime.model import NetworkInput, boxes_to_photo
from focaldet.structures import Detections

FOUND_IOU = 0.5
"""Lowest IoU of a box with the object that it matches."""


@dataclass(frozen=True)
class Scene:
    """One photo. All boxes are in pixels of the photo.

    Args:
        image_id: id in the ground truth.
        gt_xyxy, gt_labels: ``(G, 4)`` and ``(G,)``, without ignore regions.
        boxes_xyxy: ``(P, 4)`` predicted box of every location.
        class_scores: ``(P, C)`` class probabilities.
        quality: ``(P,)`` probability of the quality branch, or ``None``.
        candidates: the boxes that enter non-maximum suppression.
        kept: ``(M,)`` indices of the candidates that survive it, best first.
        points_xy: ``(P, 2)`` locations; strides_xy: ``(P, 2)`` distance between neighbours in pixels of the photo.
    """

    image_id: CocoId
    gt_xyxy: Float[Tensor, "G 4"]
    gt_labels: Int64[Tensor, " G"]
    boxes_xyxy: Float[Tensor, "P 4"]
    class_scores: Float[Tensor, "P C"]
    quality: Float[Tensor, " P"] | None
    candidates: Candidates
    kept: Int64[Tensor, " M"]
    points_xy: Float[Tensor, "P 2"]
    strides_xy: Float[Tensor, "P 2"]

    @property
    def scores(self) -> Float[Tensor, "P C"]:
        """Scores that rank the detections; the square root used by some methods gives the same ranking."""
        return self.class_scores if self.quality is None else self.class_scores * self.quality[:, None]

    @cached_property
    def candidate_iou(self) -> Float[Tensor, "N G"]:
        """IoU of each candidate with each object of its class, 0 with others. Rows ``kept`` are the detections."""
        found = self.candidates
        return pairwise_iou(found.boxes_xyxy, self.gt_xyxy) * (found.labels[:, None] == self.gt_labels)

    @cached_property
    def found_objects(self) -> Int64[Tensor, " M"]:
        """Index of the object that each detection matches, or -1."""
        return find_objects(self.candidate_iou[self.kept])

    @property
    def detections(self) -> Detections:
        """The detections after non-maximum suppression."""
        found = self.candidates[self.kept]
        return Detections(found.boxes_xyxy, found.scores, found.labels, found.side_std_px)


@torch.no_grad()
def scenes(detector: Detector, dataset: DetectionDataset) -> Iterator[Scene]:
    """Run a detector on the readable photos of a data set, with the settings used to measure AP.

    Args:
        detector: the detector.
        dataset: photos with the transform of the detector.
    """
    net, method = detector.net, detector.method
    postprocess = detector.evaluation_postprocess()
    keys = image_ids(dataset.records)
    for index, record in enumerate(dataset.records):
        sample = dataset.sample(index)
        if sample is None:
            continue
        images, valid_sizes, _ = collate([sample])
        outputs = net(images.to(net.mean.device))
        height, width = valid_sizes[0].tolist()
        locations = postprocess.locations(outputs)
        seen = NetworkInput(None, (height, width), (record.height, record.width))
        scale, last_pixel = torch.tensor(seen.scale_xy), postprocess.config.last_pixel

        found = postprocess.candidates(outputs, 0, (height, width), locations)
        kept = postprocess.nms(found.boxes_xyxy, found.scores, found.labels)
        std = None if found.side_std_px is None else found.side_std_px.cpu() * scale.repeat(2)
        box_params = flatten_levels(outputs.box_maps, method.num_box_channels)[0].float()
        boxes = clip_boxes(method.decode(box_params, locations)[0], height - last_pixel, width - last_pixel)
        quality = None if outputs.quality_logits is None else flatten_levels(outputs.quality_logits, 1)[0, :, 0]
        objects = torch.from_numpy(~record.ignored)
        yield Scene(
            image_id=keys[index],
            gt_xyxy=torch.from_numpy(record.boxes_xyxy)[objects],
            gt_labels=torch.from_numpy(record.labels)[objects],
            boxes_xyxy=_to_photo(boxes, seen, last_pixel=last_pixel),
            class_scores=flatten_levels(outputs.class_logits, net.num_classes)[0].float().sigmoid().cpu(),
            quality=None if quality is None else quality.float().sigmoid().cpu(),
            candidates=replace(
                found, boxes_xyxy=_to_photo(found.boxes_xyxy, seen, last_pixel=last_pixel), side_std_px=std
            ),
            kept=kept,
            points_xy=locations.points_xy.cpu() * scale,
            strides_xy=locations.strides.cpu()[:, None] * scale,
        )


def _to_photo(boxes_xyxy: Tensor, seen: NetworkInput, *, last_pixel: bool) -> Tensor:
    return torch.from_numpy(boxes_to_photo(boxes_xyxy.cpu().numpy(), seen, last_pixel=last_pixel))


def best_iou(iou: Float[Tensor, "N G"]) -> Float[Tensor, " N"]:
    """The best IoU in each row; 0 without objects."""
    return torch.cat([iou, iou.new_zeros(len(iou), 1)], dim=1).amax(dim=1)


def find_objects(iou: Float[Tensor, "M G"]) -> Int64[Tensor, " M"]:
    """Match each box, best score first, to the free object it overlaps most, as in COCO; -1 without a match.

    >>> find_objects(torch.tensor([[0.6, 0.0], [0.9, 0.7], [0.8, 0.6]]))  # both are taken before the third
    tensor([ 0,  1, -1])
    """
    found = torch.full((iou.shape[0],), -1)
    free = iou.clone()
    for box in range(iou.shape[0] if iou.shape[1] else 0):
        best = int(free[box].argmax())
        if free[box, best] >= FOUND_IOU:
            found[box] = best
            free[:, best] = -1.0
    return found
