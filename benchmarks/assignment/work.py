"""The measured work: a batch of scenes, and each assignment of it by focaldet and by the peer."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.assignment import peers
from torch import Tensor

from focaldet.assign.atss import assign_atss
from focaldet.assign.center_region import assign_center_region
from focaldet.assign.max_iou import assign_max_iou
from focaldet.assign.task_aligned import Candidates, choose_positives, list_candidates
from focaldet.boxes.anchors import anchor_shapes, grid_anchors
from focaldet.boxes.coding import encode_distances
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice
from focaldet.methods.positives import as_positives
from focaldet.methods.rtmdet import RTMDet
from focaldet.structures import Assignment, GroundTruth

STRIDES = (8, 16, 32, 64, 128)
IMAGES = 2
PEER_NAMES = {
    "ATSS": "mmdet ATSSAssigner",
    "FCOS": "mmdet FCOSHead.get_targets",
    "RetinaNet": "torchvision Matcher",
    "TOOD": "mmdet TaskAlignedAssigner",
    "RTMDet": "mmdet DynamicSoftLabelAssigner",
}


def scene(height: int, width: int, objects: int) -> tuple[GroundTruth, Lattice]:
    """Two images with ``objects`` boxes each, sides about 50 px (log-normal, sigma 1), clipped to the image."""
    generator = torch.Generator().manual_seed(0)
    count, size = IMAGES * objects, torch.tensor([float(width), float(height)])
    centers = torch.rand(count, 2, generator=generator) * size
    half = (
        25 * torch.randn(count, 1, generator=generator).exp() * (0.3 * torch.randn(count, 2, generator=generator)).exp()
    )
    boxes = torch.cat([(centers - half).clamp(min=0), (centers + half).minimum(size)], dim=1)
    index, nothing = torch.arange(IMAGES).repeat_interleave(objects), torch.zeros(0, 4)
    truth = GroundTruth(boxes, torch.zeros_like(index), index, IMAGES, nothing, index[:0])
    return truth, Lattice(tuple((math.ceil(height / s), math.ceil(width / s)) for s in STRIDES), STRIDES)


def has_peer(method: str) -> bool:
    """Whether the peer of a method is installed."""
    return method == "RetinaNet" or peers.has_mmdet()


def ready(method: str, who: str, height: int, width: int, objects: int) -> Callable[[], Any]:
    """The assignment of a scene by ``who`` ("ours" or "peer"), ready to run, with anchors created in advance."""
    truth, lattice = scene(height, width, objects)
    if method == "ATSS":
        return partial(assign_atss, truth, lattice) if who == "ours" else peers.mmdet_atss(truth, lattice)
    if method == "FCOS":
        return partial(fcos_targets, truth, lattice) if who == "ours" else peers.mmdet_fcos(truth, lattice)
    if method == "TOOD":
        scores, boxes = predictions(truth, lattice)
        if who == "ours":
            return partial(task_aligned, truth, lattice, scores, boxes)
        return peers.mmdet_task_aligned(truth, lattice, scores, boxes)
    if method == "RTMDet":
        scores, boxes = predictions(truth, lattice)
        if who == "ours":
            return partial(soft_labels, truth, lattice, scores.logit(), boxes)
        return peers.mmdet_soft_labels(truth, lattice, scores.logit(), boxes)
    shapes = anchor_shapes(STRIDES)
    if who == "ours":
        return partial(assign_max_iou, truth, lattice, shapes)
    return peers.torchvision_max_iou(truth, grid_anchors(lattice, shapes))


def fcos_targets(truth: GroundTruth, lattice: Lattice) -> tuple[Any, Tensor, Tensor]:
    """The assignment, with labels and target distances, which the peer computes as well."""
    assignment = assign_center_region(truth, lattice)
    matched = assignment.matched_gt
    image, location = (matched >= 0).nonzero(as_tuple=True)
    gt = matched[image, location]
    labels = torch.full_like(matched, -1)
    labels[image, location] = truth.labels[gt]
    distances = encode_distances(lattice.points()[location], lattice.location_strides()[location], truth.boxes_xyxy[gt])
    return assignment, labels, distances


def predictions(truth: GroundTruth, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Scores ``(B, P)`` and boxes ``(B, P, 4)`` of a half-trained network: a location inside an object predicts its box
    within some pixels, the others a box of random size."""
    generator = torch.Generator().manual_seed(1)
    points, half = lattice.points(), 4 * lattice.location_strides()[:, None]
    boxes = torch.cat([points - half, points + half], dim=1).repeat(IMAGES, 1, 1)
    found = list_candidates(truth, lattice)
    boxes[found.image, found.location] = truth.boxes_xyxy[found.gt]
    boxes += 4 * torch.randn(boxes.shape, generator=generator)
    return torch.rand(boxes.shape[:2], generator=generator), boxes


def task_aligned(truth: GroundTruth, lattice: Lattice, scores: Tensor, boxes: Tensor) -> Assignment:
    """The candidates and the choice among them; in training, the loader lists the candidates."""
    found = list_candidates(truth, lattice)
    iou = paired_iou(boxes[found.image, found.location], truth.boxes_xyxy[found.gt])
    chosen = choose_positives(found, scores[found.image, found.location] * iou**6, iou, 13)
    return assigned(found, chosen)


def soft_labels(truth: GroundTruth, lattice: Lattice, logits: Tensor, boxes: Tensor) -> Assignment:
    """The candidates and RTMDet's choice among them, from the maps of one class."""
    found, method = list_candidates(truth, lattice), RTMDet()
    candidates = as_positives(truth, found, method.locations(lattice), lattice)
    iou = paired_iou(boxes[found.image, found.location], truth.boxes_xyxy[found.gt])
    maps = [
        level.reshape(IMAGES, 1, *shape)
        for level, shape in zip(logits.split(lattice.level_sizes, dim=1), lattice.level_shapes, strict=True)
    ]
    return assigned(found, method.choose(maps, found, candidates, iou)[0])


def assigned(found: Candidates, chosen: Tensor) -> Assignment:
    """The object of each location, from the candidates that are chosen."""
    matched = found.unmatched.matched_gt.clone()
    matched[found.image[chosen], found.location[chosen]] = found.gt[chosen]
    return Assignment(matched)


def warm(method: str, who: str, height: int, width: int, objects: int) -> Callable[[], Any]:
    """Like ``ready``, after a small run that triggers all first-use loading."""
    ready(method, who, 64, 64, 5)()
    return ready(method, who, height, width, objects)


def differing_locations(method: str, height: int, width: int, objects: int) -> int:
    """Number of locations that focaldet and the peer assign to different objects."""
    ours = ready(method, "ours", height, width, objects)()
    matched = (ours[0] if method == "FCOS" else ours).matched_gt
    peer = torch.stack(ready(method, "peer", height, width, objects)())
    first = objects * torch.arange(IMAGES)[:, None]  # ours counts the objects over the batch
    return int((matched != torch.where(peer >= 0, peer + first, peer)).sum())
