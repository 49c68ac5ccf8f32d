"""The best values, and non-maximum suppression, of a batch at fixed shapes, as they are written into ONNX files and
torch programs.

Both suppressions say which boxes stay as a mask. Ties and the comparison with the threshold are torchvision's: of equal
scores the first is the best, and a box goes when its overlap is more than the threshold.

Of equal values the first is the better, too. ONNX defines its ``TopK`` so, and says nothing of its
``NonMaxSuppression``, which onnxruntime computes so on CPUs. torch says nothing of its ``topk``.
"""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision import ops as torchvision_ops


class NMS(Protocol):
    """Which boxes stay.

    Args:
        boxes_xyxy: ``(B, N, 4)``.
        scores: ``(B, N)``; negative: not a candidate.
        labels: ``(B, N)`` in [0, num_classes).
        iou_threshold: a box goes that overlaps a better one of its class by more.
        max_per_class: of a class and image, at most so many are needed.

    Returns:
        ``(B, N)`` bool.
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
    """The largest values and their places.

    Args:
        values: ``(B, N)``.
        k: of a row; all where it has no more.

    Returns:
        ``(B, K)`` the places; of equal values the first is the better.
    """

    def __call__(self, values: Tensor, k: int) -> Tensor: ...


def topk(values: Tensor, k: int) -> Tensor:
    """By whole numbers of which no two are equal: a float32's bits, in its order, and behind them the place.

    A stable sort would do the same in five times the time.
    """
    bits = (values.float() + 0.0).view(torch.int32)  # -0 becomes 0, which it is equal to
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    keys = (ordered << 32) - torch.arange(values.shape[1], device=values.device)
    return keys.topk(torch.sym_min(k, values.shape[1]), dim=1).indices


@torch.library.custom_op("focaldet::topk", mutates_args=())
def onnx_topk(values: Tensor, k: int) -> Tensor:
    """The same as one operator, which becomes ONNX's ``TopK``."""
    return topk(values, k)


@onnx_topk.register_fake
def _(values: Tensor, k: int) -> Tensor:
    return values.new_empty(values.shape[0], torch.sym_min(k, values.shape[1]), dtype=torch.int64)


def batched_nms(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou_threshold: float, max_per_class: int
) -> Tensor:
    """One call of torchvision's operator for all: images and classes are laid side by side, where none overlaps.

    In double precision, in which the distance costs no coordinate a digit that it had.
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
    """The same as one operator, which becomes ONNX's ``NonMaxSuppression`` (see ``onnx_translations``)."""
    return batched_nms(boxes_xyxy, scores, labels, num_classes, iou_threshold, max_per_class)


@onnx_nms.register_fake
def _(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou_threshold: float, max_per_class: int
) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> dict[Any, Any]:
    """What the operators of this module are in ONNX, for ``torch.onnx.export``."""
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
        boxes = op.Reshape(boxes_xyxy, op.Constant(value_ints=[0, -1, 4]))  # OpenVINO wants to see the 4
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
    """The largest number of float32 that is not above a value: a float32 is above both, or above neither.

    >>> float(np.float32(0.6)) > 0.6, largest_float32(0.6) > 0.6
    (True, False)
    """
    nearest = np.float32(value)
    return float(nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf)))
