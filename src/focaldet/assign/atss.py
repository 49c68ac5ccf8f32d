"""Adaptive Training Sample Selection (Zhang et al., CVPR 2020, arXiv 1912.02424, algorithm 1).

The candidates of an object are the ``top_k`` locations nearest to its centre on each level. Its IoU threshold is the
mean plus the standard deviation of the candidates' IoU with it. A candidate is positive if it reaches the threshold and
lies inside the object. A location claimed by several objects goes to the one with the highest IoU.

The locations of a level form a lattice, so the nearest ones lie in a small window around the object's centre. Time
grows with the number of objects, not with the image, and no (locations x objects) matrix is built.

Ties are broken the same way on every device: of locations at equal distance, the lower index is nearer; of objects with
equal IoU, the lower index wins.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from focaldet.assign.claims import claim, ignore_unknown
from focaldet.assign.windows import check_plain, own_columns_and_rows
from focaldet.boxes.formats import box_centers, square_boxes
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, Assignment, GroundTruth

INSIDE_MARGIN_PX = 0.01
"""A location is inside an object if it is farther than this from each side (as in the authors' code)."""


@torch.no_grad()
def assign_atss(
    truth: GroundTruth,
    lattice: Lattice,
    *,
    top_k: int = 9,
    anchor_scale: float = 8.0,
    image_sizes: Int64[Tensor, "B 2"] | None = None,
) -> Assignment:
    """Assign the objects of a batch to the locations of a pyramid.

    Args:
        truth: the objects of the batch. Their centres must lie inside the image.
        lattice: the locations, each with one square anchor.
        top_k: number of candidates per level; all locations of a level that has fewer.
        anchor_scale: side of the anchor, in strides.
        image_sizes: (height, width) of each image's content if the batch is padded. Locations in the padding are
            ignored, and the result for each image is the same as without padding.

    Returns:
        ``matched_gt`` over the ``B x P`` locations.

    Raises:
        ValueError: the lattice has steps or a shift.

    >>> from focaldet.boxes.locations import Lattice
    >>> box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    >>> no_box, zero = torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
    >>> truth = GroundTruth(box, zero, zero, 1, no_box, zero[:0])
    >>> assign_atss(truth, Lattice(((8, 8), (4, 4)), (8, 16))).matched_gt.ge(0).sum()  # of the 64 + 16 locations
    tensor(4)
    """
    check_plain(lattice)
    device = truth.boxes_xyxy.device
    num_locations, num_gt = lattice.num_locations, truth.boxes_xyxy.shape[0]
    matched = torch.full((truth.num_images * num_locations,), BACKGROUND, dtype=torch.int64, device=device)
    if num_gt:
        columns_and_rows = own_columns_and_rows(lattice, truth.image_index, image_sizes)
        locations, points, anchors, exists = _nearest_locations(
            truth.boxes_xyxy, columns_and_rows, lattice, top_k, anchor_scale
        )
        gt_boxes = truth.boxes_xyxy[:, None]
        iou = paired_iou(anchors, gt_boxes)  # (G, candidates)
        margin = torch.cat([points - gt_boxes[..., :2], gt_boxes[..., 2:] - points], dim=-1).amin(dim=-1)
        positive = exists & (iou >= _thresholds(iou, exists)[:, None]) & (margin > INSIDE_MARGIN_PX)

        location_of_batch = truth.image_index[:, None] * num_locations + locations
        best = torch.full(matched.shape, -1.0, device=device)
        claim(matched, best, location_of_batch[positive], positive.nonzero()[:, 0], iou[positive])
    matched = matched.view(truth.num_images, num_locations)
    ignore_unknown(matched[..., None], truth, lattice, image_sizes)
    return Assignment(matched)


@torch.no_grad()
def atss_thresholds(
    truth: GroundTruth,
    lattice: Lattice,
    *,
    top_k: int = 9,
    anchor_scale: float = 8.0,
    image_sizes: Int64[Tensor, "B 2"] | None = None,
) -> Float64[Tensor, " G"]:
    """The lowest IoU of a positive candidate, for each object; arguments as for ``assign_atss``."""
    columns_and_rows = own_columns_and_rows(lattice, truth.image_index, image_sizes)
    _, _, anchors, exists = _nearest_locations(truth.boxes_xyxy, columns_and_rows, lattice, top_k, anchor_scale)
    return _thresholds(paired_iou(anchors, truth.boxes_xyxy[:, None]), exists)


def _thresholds(iou: Float[Tensor, "G T"], exists: Bool[Tensor, "G T"]) -> Float64[Tensor, " G"]:
    """Mean plus standard deviation of the IoUs of each object's candidates."""
    # In float64, the mean of equal IoUs is exactly that IoU. A rounded mean could exclude all of them.
    wide = iou.double() * exists
    count = exists.sum(dim=1)
    mean = wide.sum(dim=1) / count
    squares = ((wide - mean[:, None]) * exists).square().sum(dim=1)
    return mean + (squares / (count - 1).clamp(min=1)).sqrt()


def _nearest_locations(
    boxes_xyxy: Float[Tensor, "G 4"],
    columns_and_rows: Int64[Tensor, "G L 2"],
    lattice: Lattice,
    top_k: int,
    anchor_scale: float,
) -> tuple[Int64[Tensor, "G T"], Float[Tensor, "G T 2"], Float[Tensor, "G T 4"], Bool[Tensor, "G T"]]:
    """Location index, centre and anchor of the candidates of each object, and whether each candidate exists.

    An image has fewer locations than the padded lattice, so some candidates may not exist.

    Only a window around the centre is searched. With m = ceil(sqrt(top_k)), the m x m locations around a centre are at
    most m away along one axis and m/2 along the other (a centre may lie up to one cell beyond the outermost locations),
    so no candidate is farther than hypot(m, m/2). In an image narrower than m, the window is longer along the other
    axis.
    """
    m = math.ceil(math.sqrt(top_k))
    near, far = 2 * int(math.hypot(m, m / 2) + 0.5) + 1, 2 * top_k + 1
    center_x, center_y = box_centers(boxes_xyxy)[:, :, None].unbind(dim=1)
    found = []
    for level, (height, width) in enumerate(lattice.level_shapes):
        stride, start = lattice.strides[level], lattice.level_starts[level]
        columns, rows = columns_and_rows[:, level, :, None].unbind(dim=1)
        side = torch.where((rows >= m) & (columns >= m), near, far)
        window_rows, window_columns = side.minimum(rows), side.minimum(columns)
        cell = torch.arange(min(max(near * near, (m - 1) * far), height * width), device=boxes_xyxy.device)
        row = _first(center_y, rows, window_rows, stride, lattice.offset) + cell // window_columns
        column = _first(center_x, columns, window_columns, stride, lattice.offset) + cell % window_columns
        x, y = (column.float() + lattice.offset) * stride, (row.float() + lattice.offset) * stride
        # In float64, squared distances are exact enough for ties to compare equal.
        squared = (x.double() - center_x).square() + (y.double() - center_y).square()
        squared = squared.masked_fill(cell >= window_rows * window_columns, math.inf)
        nearest = squared.sort(dim=1, stable=True)
        index, exists = nearest.indices[:, :top_k], nearest.values[:, :top_k].isfinite()
        point = torch.stack([x.gather(1, index), y.gather(1, index)], dim=-1)
        location = start + row.gather(1, index) * width + column.gather(1, index)
        found.append((location, point, square_boxes(point, float(anchor_scale * stride)), exists))
    locations, points, anchors, exists = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return locations, points, anchors, exists


def _first(
    center_px: Float[Tensor, "G 1"],
    length: Int64[Tensor, "G 1"],
    size: Int64[Tensor, "G 1"],
    stride: int,
    offset: float,
) -> Int64[Tensor, "G 1"]:
    """First index, along one axis, of the window of ``size`` locations that is centred nearest to ``center_px``."""
    nearest = (center_px / stride - offset).round().long()
    return (nearest - size // 2).clamp(min=0).minimum(length - size)
