"""Views of logits of any shape and memory format as ``(O, C, I)``, without a copy.

O and I are the axes left and right of the class axis as they lie in memory. Rows ``(..., C)`` are ``(N, C, 1)``; the
view of a map with its channels moved last, ``(B, ..., C)`` on ``(B, C, ...)``, is ``(B, C, HW)``.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import NamedTuple

from torch import Tensor

from focaldet.checks import check_broadcasts, check_shape
from focaldet.structures import SparseTargets


class Part(NamedTuple):
    """Logits ``(O, C, I)`` with targets and weight in the same order. Either ``labels`` or ``targets`` is given."""

    logits: Tensor
    labels: Tensor | None
    quality: Tensor | None
    targets: Tensor | None
    weight: Tensor | None


class Pyramid(NamedTuple):
    """Maps ``(B, A * C, H, W)``; labels and quality of their locations ``(B, P)``; a weight ``(B, P, C or 1)``, or one
    for all locations, ``(1, 1, C or 1)``; and the number of classes C."""

    maps: Sequence[Tensor]
    labels: Tensor
    quality: Tensor | None
    weight: Tensor | None
    num_classes: int


def see_rows(x: Tensor) -> tuple[Tensor, bool]:
    """``(..., C)`` as ``(O, C, I)``, and whether the class axis lies before others in memory (I > 1)."""
    if not x.is_contiguous() and x.ndim > 2 and x.movedim(-1, 1).is_contiguous():
        return x.movedim(-1, 1).reshape(x.shape[0], x.shape[-1], -1), True
    return x.reshape(prod(x.shape[:-1]), x.shape[-1], 1), False


def _expanded_weight(weight: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """A weight that broadcasts against ``shape``, as ``(..., C or 1)`` with only its class axis left to broadcast."""
    if weight is None:
        return None
    check_broadcasts("weight", weight, shape)
    weight = weight.reshape((1,) * (len(shape) - weight.ndim) + tuple(weight.shape))
    if weight.shape[:-1].numel() == 1:
        return weight
    return weight.expand(*shape[:-1], weight.shape[-1])


def tensor_part(logits: Tensor, targets: Tensor | SparseTargets, weight: Tensor | None) -> Part:
    """One tensor of logits ``(..., C)`` and its targets."""
    if logits.ndim == 0:
        raise ValueError("logits: expected a class axis, shape (..., C), got a 0-d tensor")
    seen, first = see_rows(logits)
    outer, _, inner = seen.shape
    weight = _expanded_weight(weight, tuple(logits.shape))
    if weight is not None:
        if weight.shape[:-1].numel() == 1:
            weight = weight.reshape(1, weight.shape[-1], 1)
        elif first:
            weight = weight.movedim(-1, 1).reshape(outer, weight.shape[-1], inner)
        else:
            weight = weight.reshape(outer, weight.shape[-1], 1)
    if isinstance(targets, SparseTargets):
        check_shape("targets.labels", targets.labels, tuple(logits.shape[:-1]))
        if targets.quality is not None:
            check_shape("targets.quality", targets.quality, tuple(logits.shape[:-1]))
        labels = targets.labels.long().reshape(outer, inner)
        quality = None if targets.quality is None else targets.quality.reshape(outer, inner)
        return Part(seen, labels, quality, None, weight)
    check_shape("targets", targets, tuple(logits.shape))
    dense = targets.movedim(-1, 1).reshape(seen.shape) if first else targets.reshape(seen.shape)
    return Part(seen, None, None, dense, weight)


def see_pyramid(maps: Sequence[Tensor], targets: Tensor | SparseTargets, weight: Tensor | None) -> Pyramid:
    """The maps ``(B, A * C, H, W)`` with their targets and weight.

    ``targets`` and ``weight`` have an axis P that runs over the levels, the rows of a level, and the A anchors of a
    cell, last fastest: labels ``(B, P)``, weight broadcasting against ``(B, P, C)``.
    """
    if not isinstance(targets, SparseTargets):
        raise TypeError("targets: expected SparseTargets for a list of maps, got a dense tensor")
    batch, channels = int(maps[0].shape[0]), int(maps[0].shape[1])
    cells = sum(int(x.shape[-2] * x.shape[-1]) for x in maps)
    num_locations = int(targets.labels.shape[-1]) if targets.labels.ndim == 2 else 0
    num_anchors, rest = divmod(num_locations, cells) if cells else (0, 0)
    if rest or num_anchors == 0 or channels % num_anchors:
        raise ValueError(f"targets.labels: expected (B, A * {cells}) for these maps, got {tuple(targets.labels.shape)}")
    check_shape("targets.labels", targets.labels, (batch, num_locations))
    if targets.quality is not None:
        check_shape("targets.quality", targets.quality, (batch, num_locations))
    for x in maps:
        check_shape("logits (a map of the pyramid)", x, (batch, channels, *x.shape[-2:]))
    num_classes = channels // num_anchors
    weight = _expanded_weight(weight, (batch, num_locations, num_classes))
    return Pyramid(maps, targets.labels.long(), targets.quality, weight, num_classes)


def pyramid_parts(pyramid: Pyramid) -> list[Part]:
    """The levels of a pyramid, each in either memory format, with their parts of the targets and of the weight."""
    maps, labels, quality, weight, num_classes = pyramid
    batch, num_anchors = int(maps[0].shape[0]), int(maps[0].shape[1]) // num_classes
    parts, start = [], 0
    for x in maps:
        count = int(x.shape[-2] * x.shape[-1])
        level = slice(start, start + count * num_anchors)
        start = level.stop
        last = not x.is_contiguous() and x.permute(0, 2, 3, 1).is_contiguous()
        if last:
            seen = x.permute(0, 2, 3, 1).reshape(batch * count * num_anchors, num_classes, 1)
        else:
            seen = x.reshape(batch * num_anchors, num_classes, count)
        arrange = partial(_of_level, level=level, num_anchors=num_anchors, channels_last=last)
        level_weight = weight
        if weight is not None:
            everywhere = weight.shape[:-1].numel() == 1
            level_weight = weight.reshape(1, weight.shape[-1], 1) if everywhere else arrange(weight)
        level_labels = arrange(labels.unsqueeze(-1)).squeeze(1)
        level_quality = None if quality is None else arrange(quality.unsqueeze(-1)).squeeze(1)
        parts.append(Part(seen, level_labels, level_quality, None, level_weight))
    return parts


def _of_level(values: Tensor, level: slice, num_anchors: int, channels_last: bool) -> Tensor:
    """Values ``(B, P, X)`` of a level in the order of its map: ``(B * H * W * A, X, 1)`` or ``(B * A, X, H * W)``."""
    values = values[:, level]
    batch, count, width = values.shape
    if channels_last:
        return values.reshape(batch * count, width, 1)
    by_anchor = values.reshape(batch, count // num_anchors, num_anchors, width).movedim(1, -1)
    return by_anchor.reshape(batch * num_anchors, width, count // num_anchors)


def unsee_rows(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``(O, C, I)`` back to the shape ``(..., C)`` that `see_rows` took it from."""
    return x.movedim(1, -1).reshape(shape)


def unsee_map(x: Tensor, like: Tensor) -> Tensor:
    """``(O, C, I)`` of a pyramid's map back to ``(B, H * W * A, C)``."""
    batch, num_classes = like.shape[0], x.shape[1]
    if x.shape[-1] == 1:
        return x.reshape(batch, -1, num_classes)
    num_anchors = like.shape[1] // num_classes
    return x.reshape(batch, num_anchors, num_classes, -1).permute(0, 3, 1, 2).reshape(batch, -1, num_classes)
