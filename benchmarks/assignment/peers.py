"""The peers of the assignments: mmdetection's, if it is installed, and torchvision's.

mmdetection's assigners and heads do not need compiled mmcv. In an environment with torch and focaldet, run

    pip install --no-deps mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7 addict yapf platformdirs termcolor rich \
        markdown-it-py mdurl pygments six python-dateutil shapely terminaltables opencv-python-headless

`load_mmdet` replaces the missing module ``mmcv._ext`` by a stub.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou, nms

from focaldet.boxes.locations import Lattice
from focaldet.structures import GroundTruth


class _NotCompiled(ModuleType):
    """A module that has every name; only NMS, from torchvision, can be called."""

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
        return nms(boxes, scores, iou_threshold)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def fail(*args: object, **kwargs: object) -> NoReturn:
            raise RuntimeError(f"mmcv's compiled operator {name} is not installed")

        return fail


def has_mmdet() -> bool:
    """Whether mmdetection and its dependencies can be imported."""
    return all(importlib.util.find_spec(name) for name in ("mmdet", "mmcv", "mmengine"))


def load_mmdet() -> None:
    """Make mmdetection importable without mmcv's compiled operators."""
    sys.modules.setdefault("mmcv._ext", _NotCompiled("mmcv._ext"))


def of_images(truth: GroundTruth) -> list[Tensor]:
    """The boxes of each image."""
    return [truth.boxes_xyxy[truth.image_index == image] for image in range(truth.num_images)]


def mmdet_atss(truth: GroundTruth, lattice: Lattice) -> Any:
    """mmdetection's ATSSAssigner on the same anchors, ready to run."""
    load_mmdet()
    from mmdet.models.task_modules.assigners import ATSSAssigner
    from mmengine.structures import InstanceData

    points, half = lattice.points(), 4 * lattice.location_strides()[:, None]
    priors = InstanceData(priors=torch.cat([points - half, points + half], dim=1))
    images = [InstanceData(bboxes=boxes, labels=torch.arange(len(boxes))) for boxes in of_images(truth)]
    assigner = ATSSAssigner(topk=9)

    def run() -> list[Tensor]:
        return [assigner.assign(priors, list(lattice.level_sizes), image).gt_inds - 1 for image in images]

    return run


def mmdet_fcos(truth: GroundTruth, lattice: Lattice) -> Any:
    """The targets of mmdetection's FCOSHead, ready to run. Each object is its own class, so labels identify objects."""
    load_mmdet()
    from mmdet.models.dense_heads import FCOSHead
    from mmengine.structures import InstanceData

    images = [InstanceData(bboxes=boxes, labels=torch.arange(len(boxes))) for boxes in of_images(truth)]
    num_classes = max(len(image) for image in images)
    head = FCOSHead(
        num_classes,
        32,
        feat_channels=32,
        stacked_convs=1,
        strides=lattice.strides,
        center_sampling=True,
        norm_on_bbox=True,
    )
    points = list(lattice.points().split(lattice.level_sizes))

    def run() -> list[Tensor]:
        labels, _ = head.get_targets(points, images)
        by_image = torch.cat([level.view(len(images), -1) for level in labels], dim=1)
        return list(torch.where(by_image == num_classes, -1, by_image))

    return run


def mmdet_task_aligned(truth: GroundTruth, lattice: Lattice, scores: Tensor, boxes: Tensor) -> Any:
    """mmdetection's TaskAlignedAssigner, which chooses before it checks what lies inside, ready to run.

    Args:
        scores, boxes: predictions ``(B, P)`` and ``(B, P, 4)``.
    """
    load_mmdet()
    from mmdet.models.task_modules.assigners import TaskAlignedAssigner

    points = lattice.points()
    return _by_predictions(TaskAlignedAssigner(topk=13), truth, torch.cat([points, points], dim=1), scores, boxes)


def mmdet_soft_labels(truth: GroundTruth, lattice: Lattice, logits: Tensor, boxes: Tensor) -> Any:
    """mmdetection's DynamicSoftLabelAssigner, ready to run.

    Args:
        logits, boxes: predictions ``(B, P)`` and ``(B, P, 4)``.
    """
    load_mmdet()
    from mmdet.models.task_modules.assigners import DynamicSoftLabelAssigner

    priors = torch.cat([lattice.points(), lattice.location_strides()[:, None].expand(-1, 2)], dim=1)
    return _by_predictions(DynamicSoftLabelAssigner(topk=13), truth, priors, logits, boxes)


def _by_predictions(assigner: Any, truth: GroundTruth, priors: Tensor, scores: Tensor, boxes: Tensor) -> Any:
    """An assigner of mmdetection that chooses by predictions, ready to run on the images of a batch."""
    from mmengine.structures import InstanceData

    images = [
        (
            InstanceData(priors=priors, scores=scores[image, :, None], bboxes=boxes[image]),
            InstanceData(bboxes=own, labels=torch.zeros(len(own), dtype=torch.int64)),
        )
        for image, own in enumerate(of_images(truth))
    ]
    return lambda: [assigner.assign(predicted, own).gt_inds - 1 for predicted, own in images]


def torchvision_max_iou(truth: GroundTruth, anchors: Tensor) -> Any:
    """torchvision's Matcher on box_iou, called as in its RetinaNet, ready to run."""
    matcher, images = Matcher(0.5, 0.4, allow_low_quality_matches=True), of_images(truth)
    return lambda: [matcher(box_iou(boxes, anchors)) for boxes in images]
