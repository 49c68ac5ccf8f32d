"""Anchors: boxes of a few shapes around each location of a pyramid (RetinaNet: arXiv 1708.02002, section 4).

The anchor shapes of a pyramid form one tensor ``(L, A, 2)``: width and height in pixels of the A anchors of each level.
The anchors of a location are consecutive, ordered by ratio and then by scale, as in torchvision and mmdetection.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.locations import Lattice

RETINANET_SCALES = tuple(4 * 2 ** (k / 3) for k in range(3))
"""Side of a square anchor in strides, three per octave."""

RETINANET_RATIOS = (0.5, 1.0, 2.0)
"""Height divided by width."""


def anchor_shapes(
    strides: Sequence[int],
    scales: Sequence[float] = RETINANET_SCALES,
    ratios: Sequence[float] = RETINANET_RATIOS,
    *,
    whole_px: bool = False,
) -> Float[Tensor, "L A 2"]:
    """Width and height of the anchors of each level, in pixels.

    Args:
        strides: pixels between neighbouring locations of each level.
        scales: square root of an anchor's area, in strides.
        ratios: height divided by width.
        whole_px: round as torchvision's RetinaNet does: sizes down to whole pixels, then half sides to the nearest.

    >>> anchor_shapes((8,), scales=(4, 8), ratios=(1, 4))
    tensor([[[ 32.,  32.], [ 64.,  64.], [ 16.,  64.], [ 32., 128.]]])
    >>> anchor_shapes((8,), ratios=(0.5,)), anchor_shapes((8,), ratios=(0.5,), whole_px=True)
    (tensor([[[45.2548, 22.6274], [57.0175, 28.5088], [71.8376, 35.9188]]]),
     tensor([[[46., 22.], [56., 28.], [70., 36.]]]))
    """
    sizes = [[scale * stride for scale in scales] for stride in strides]
    if whole_px:
        sizes = [[math.floor(size) for size in level] for level in sizes]
    sides = torch.tensor(sizes, dtype=torch.float32)[:, None]  # (L, 1, scales)
    heights_by_size = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    shapes = torch.stack([1 / heights_by_size * sides, heights_by_size * sides], dim=-1).flatten(1, 2)
    return 2 * (shapes / 2).round() if whole_px else shapes


def grid_anchors(lattice: Lattice, shapes_px: Float[Tensor, "L A 2"]) -> Float[Tensor, "PA 4"]:
    """The anchors of all locations as boxes, in lattice order, A per location.

    Raises:
        ValueError: the lattice and the shapes have different numbers of levels.

    >>> lattice = Lattice(((1, 2), (1, 1)), (8, 16))
    >>> grid_anchors(lattice, anchor_shapes(lattice.strides, scales=(1, 2), ratios=(1,)))[1:4]
    tensor([[-4., -4., 12., 12.], [ 8.,  0., 16.,  8.], [ 4., -4., 20., 12.]])
    """
    check_levels(lattice, shapes_px)
    levels = zip(lattice.level_points(shapes_px.device), shapes_px / 2, strict=True)
    return torch.cat(
        [torch.cat([points[:, None] - half, points[:, None] + half], dim=-1).flatten(0, 1) for points, half in levels]
    )


def chosen_anchors(
    lattice: Lattice, shapes_px: Float[Tensor, "L A 2"], index: Int64[Tensor, " N"]
) -> Float[Tensor, "N 4"]:
    """``grid_anchors(lattice, shapes_px)[index]``, computing only these.

    >>> lattice = Lattice(((1, 2), (1, 1)), (8, 16))
    >>> chosen_anchors(lattice, anchor_shapes(lattice.strides, scales=(1, 2), ratios=(1,)), torch.tensor([3, 1]))
    tensor([[ 4., -4., 20., 12.], [-4., -4., 12., 12.]])
    """
    check_levels(lattice, shapes_px)
    starts = torch.tensor(lattice.level_starts, device=index.device)
    widths = torch.tensor([width for _, width in lattice.level_shapes], device=index.device)
    steps = lattice.steps or tuple((stride, stride) for stride in lattice.strides)
    steps_xy = torch.tensor(steps, device=index.device).flip(-1)
    location, shape = index // shapes_px.shape[1], index % shapes_px.shape[1]
    level = torch.bucketize(location, starts, right=True) - 1
    cell, width = location - starts[level], widths[level]
    column_and_row = torch.stack([cell % width, cell // width], dim=-1)
    points = (column_and_row.float() + lattice.offset) * steps_xy[level] + lattice.shift_px
    half = shapes_px[level, shape] / 2
    return torch.cat([points - half, points + half], dim=-1)


def check_levels(lattice: Lattice, shapes_px: Tensor) -> None:
    """Raise ValueError unless there are anchor shapes for each level of the lattice."""
    if len(lattice.strides) != shapes_px.shape[0]:
        raise ValueError(f"shapes: expected {len(lattice.strides)} levels, got {shapes_px.shape[0]}")
