"""Top-k selection and non-maximum suppression of a batch with fixed shapes, for ONNX files and torch programs.

NMS returns a mask of the boxes to keep. Ties and the comparison with the threshold follow torchvision: of equal scores,
the first is better, and a box is dropped if its IoU exceeds the threshold.

In top-k, too, the first of equal values is better. ONNX defines this for ``TopK`` but not for ``NonMaxSuppression``,
where onnxruntime does so on CPUs. torch does not define it for ``topk``.
"""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision import ops as torchvision_ops


class NMS(Protocol):
    """Class-aware NMS of a batch.

    Args:
        boxes_xyxy: ``(B, N, 4)``.
        scores: ``(B, N)``; negative for entries that are not candidates.
        labels: ``(B, N)`` in [0, num_classes).
        iou_threshold: a box is dropped if its IoU with a better one of its class exceeds this.
        max_per_class: number of boxes needed per class and image; more may be kept.

    Returns:
        ``(B, N)`` bool, the boxes to keep.
    """

    def __call__(
        self,
        boxes_xyxy: Tensor,
        scores: Tensor,
        labels: Tensor,
        num_classes: int,
        iou_threshold: float,
        max_per_class: int,
    ) -> Tensor: ...


class TopK(Protocol):
    """Top-k selection in each row.

    Args:
        values: ``(B, N)``.
        k: number of values; all of a shorter row.

    Returns:
        ``(B, K)`` indices of the largest values, best first; of equal values, the first is better.
    """

    def __call__(self, values: Tensor, k: int) -> Tensor: ...


def topk(values: Tensor, k: int) -> Tensor:
    """Top-k by distinct integer keys: the bits of the float32 value, then the index.

    A stable sort gives the same result but takes five times as long.
    """
    bits = (values.float() + 0.0).view(torch.int32)  # turns -0 into 0, its equal
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    keys = (ordered << 32) - torch.arange(values.shape[1], device=values.device)
    return keys.topk(torch.sym_min(k, values.shape[1]), dim=1).indices


@torch.library.custom_op("focaldet::topk", mutates_args=())
def onnx_topk(values: Tensor, k: int) -> Tensor:
    """``topk`` as a single operator, translated to ONNX's ``TopK``."""
    return topk(values, k)


@onnx_topk.register_fake
def _(values: Tensor, k: int) -> Tensor:
    return values.new_empty(values.shape[0], torch.sym_min(k, values.shape[1]), dtype=torch.int64)


def batched_nms(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou_threshold: float, max_per_class: int
) -> Tensor:
    """NMS in one call of torchvision's operator, with the boxes of each image and class shifted far apart.

    It uses double precision, so that the shift loses no digits of the coordinates.
    """
    image = torch.arange(boxes_xyxy.shape[0], device=labels.device)[:, None]
    place = (image * num_classes + labels).double()[..., None]
    wide = boxes_xyxy.double()
    apart = wide + place * (wide.max() - wide.min() + 1)
    kept = torchvision_ops.nms(apart.flatten(0, 1), scores.double().flatten(), iou_threshold)
    mask = torch.zeros_like(scores, dtype=torch.bool).flatten()
    return mask.index_fill(0, kept, True).view_as(scores) & (scores >= 0)


@torch.library.custom_op("focaldet::nms", mutates_args=())
def onnx_nms(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou_threshold: float, max_per_class: int
) -> Tensor:
    """``batched_nms`` as a single operator, translated to ONNX's ``NonMaxSuppression`` (see ``onnx_translations``)."""
    return batched_nms(boxes_xyxy, scores, labels, num_classes, iou_threshold, max_per_class)


@onnx_nms.register_fake
def _(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou_threshold: float, max_per_class: int
) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> dict[Any, Any]:
    """ONNX translations of the operators in this module, for ``torch.onnx.export``."""
    from onnxscript import opset18

    op: Any = opset18

    def topk(values: Any, k: int) -> Any:
        length = op.Gather(op.Shape(values), op.Constant(value_ints=[1]))
        _, places = op.TopK(values, op.Min(length, op.Constant(value_ints=[k])), axis=1)
        return places

    def nms(
        boxes_xyxy: Any, scores: Any, labels: Any, num_classes: int, iou_threshold: float, max_per_class: int
    ) -> Any:
        classes = op.Constant(value_ints=list(range(num_classes)))
        own = op.Equal(op.Unsqueeze(labels, [1]), op.Unsqueeze(classes, [0, 2]))  # (B, C, N)
        of_class = op.Where(own, op.Unsqueeze(scores, [1]), op.Constant(value_float=-1.0))
        boxes = op.Reshape(boxes_xyxy, op.Constant(value_ints=[0, -1, 4]))  # OpenVINO requires a constant 4
        chosen = op.NonMaxSuppression(
            boxes,
            of_class,
            op.Constant(value_ints=[max_per_class]),
            op.Constant(value_floats=[largest_float32(iou_threshold)]),
            op.Constant(value_floats=[-0.5]),
        )  # (S, 3): image, class, box
        places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
        nothing = op.ConstantOfShape(op.Shape(scores))
        ones = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(op.Gather(places, 0, axis=1)))
        return op.Greater(op.ScatterND(nothing, places, ones), op.Constant(value_float=0.0))

    return {torch.ops.focaldet.nms.default: nms, torch.ops.focaldet.topk.default: topk}


def largest_float32(value: float) -> float:
    """The largest float32 that does not exceed a value, so that comparing a float32 with either gives the same result.

    >>> float(np.float32(0.6)) > 0.6, largest_float32(0.6) > 0.6
    (True, False)
    """
    nearest = np.float32(value)
    return float(nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf)))
