"""Adaptive Training Sample Selection (Zhang et al., CVPR 2020, arXiv 1912.02424, algorithm 1).

For each object take, on every level, the ``top_k`` sites nearest to its centre. The mean plus the standard deviation of
these candidates' IoU with the object is the object's own threshold; candidates that reach it, and whose site lies
inside the object, are positive. A site claimed by several objects goes to the one it overlaps most.

The sites of a level are a lattice, so its nearest ones lie in a small window around the object's centre: the work grows
with the number of objects, not with the image, and no (sites x objects) matrix is built.

Ties are decided, so that every device gives the same answer: of sites equally far the lower index is nearer; of objects
with equal IoU the lower index wins.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.formats import box_centers
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, IGNORED, Assignment, GroundTruth

INSIDE_MARGIN_PX = 0.01
"""A site is inside an object when it is farther than this from each side (the authors' code)."""


@torch.no_grad()
def assign_atss(
    truth: GroundTruth,
    lattice: Lattice,
    *,
    top_k: int = 9,
    anchor_scale: float = 8.0,
    image_sizes: Int64[Tensor, "B 2"] | None = None,
) -> Assignment:
    """Assign the objects of a batch to the sites of a pyramid.

    Args:
        truth: the batch's objects. Centres must lie inside the image.
        lattice: the sites, one square anchor each.
        top_k: candidates a level; a level with fewer sites gives all it has.
        anchor_scale: side of the anchor, in strides.
        image_sizes: height and width of each image's content when the batch is padded; the padding's sites are ignored.

    Returns:
        ``matched_gt`` over the ``B x P`` sites.

    >>> from focaldet.boxes.locations import Lattice
    >>> box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    >>> no_box, zero = torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
    >>> truth = GroundTruth(box, zero, zero, 1, no_box, zero[:0])
    >>> assign_atss(truth, Lattice(((8, 8), (4, 4)), (8, 16))).matched_gt.ge(0).sum()  # of the 64 + 16 sites
    tensor(4)
    """
    device = truth.boxes_xyxy.device
    num_sites, num_gt = lattice.num_sites, truth.boxes_xyxy.shape[0]
    matched = torch.full((truth.num_images * num_sites,), BACKGROUND, dtype=torch.int64, device=device)
    if num_gt:
        sites, points, anchors = _nearest_sites(truth.boxes_xyxy, lattice, top_k, anchor_scale)
        gt_boxes = truth.boxes_xyxy[:, None]
        iou = paired_iou(anchors, gt_boxes)  # (G, candidates)
        # In float64 the mean of equal IoUs is that IoU exactly: rounded, it could exclude all of them.
        wide = iou.double()
        spread = wide.std(dim=1) if iou.shape[1] > 1 else torch.zeros_like(wide[:, 0])
        threshold = wide.mean(dim=1) + spread
        margin = torch.cat([points - gt_boxes[..., :2], gt_boxes[..., 2:] - points], dim=-1).amin(dim=-1)
        positive = (iou >= threshold[:, None]) & (margin > INSIDE_MARGIN_PX)

        site_of_batch = truth.image_index[:, None] * num_sites + sites
        _claim(matched, site_of_batch[positive], positive.nonzero()[:, 0], iou[positive])
    matched = matched.view(truth.num_images, num_sites)
    _ignore(matched, truth, lattice, image_sizes)
    return Assignment(matched)


def _nearest_sites(
    boxes_xyxy: Float[Tensor, "G 4"], lattice: Lattice, top_k: int, anchor_scale: float
) -> tuple[Int64[Tensor, "G T"], Float[Tensor, "G T 2"], Float[Tensor, "G T 4"]]:
    """The candidates of every object: site index, centre and anchor of the nearest sites of each level."""
    centers = box_centers(boxes_xyxy)
    sites, points, anchors = [], [], []
    for (height, width), stride, start in zip(lattice.level_shapes, lattice.strides, lattice.level_starts, strict=True):
        rows = _window(centers[:, 1], height, width, stride, lattice.offset, top_k)
        columns = _window(centers[:, 0], width, height, stride, lattice.offset, top_k)
        x = (columns.float() + lattice.offset) * stride
        y = (rows.float() + lattice.offset) * stride
        # Squared distances in float64 are exact enough to see a tie as a tie.
        squared = (x.double() - centers[:, :1]).square()[:, None, :] + (y.double() - centers[:, 1:]).square()[
            :, :, None
        ]
        nearest = squared.flatten(1).sort(dim=1, stable=True).indices[:, : min(top_k, height * width)]
        row, column = nearest // columns.shape[1], nearest % columns.shape[1]
        point = torch.stack([x.gather(1, column), y.gather(1, row)], dim=-1)
        sites.append(start + rows.gather(1, row) * width + columns.gather(1, column))
        points.append(point)
        half = anchor_scale * stride / 2
        anchors.append(torch.cat([point - half, point + half], dim=-1))
    return torch.cat(sites, 1), torch.cat(points, 1), torch.cat(anchors, 1)


def _window(
    center_px: Float[Tensor, " G"], length: int, other_length: int, stride: int, offset: float, top_k: int
) -> Int64[Tensor, "G W"]:
    """Along one axis, the lattice indices among which the ``top_k`` nearest sites lie.

    With m = ceil(sqrt(top_k)), the m x m sites around a centre are at most m deep and m/2 aside of it (a centre may lie
    up to one cell beyond the border's sites), so none of the nearest is farther than hypot(m, m/2). A level narrower
    than m has to give its share along the other axis.
    """
    m = math.ceil(math.sqrt(top_k))
    reach = int(math.hypot(m, m / 2) + 0.5) if min(length, other_length) >= m else top_k
    size = min(2 * reach + 1, length)
    nearest = (center_px / stride - offset).round().long()
    first = (nearest - reach).clamp(0, length - size)
    return first[:, None] + torch.arange(size, device=center_px.device)


def _claim(
    matched: Int64[Tensor, " BP"], site: Int64[Tensor, " N"], gt: Int64[Tensor, " N"], iou: Float[Tensor, " N"]
) -> None:
    """Give each claimed site to the object of highest IoU (of equals, the lowest index)."""
    best = torch.full(matched.shape, -1.0, dtype=iou.dtype, device=iou.device)
    best.scatter_reduce_(0, site, iou, "amax")
    wins = iou == best[site]
    site, gt = site[wins], gt[wins]
    matched[site] = torch.iinfo(torch.int64).max
    matched.scatter_reduce_(0, site, gt, "amin")


def _ignore(
    matched: Int64[Tensor, "B P"], truth: GroundTruth, lattice: Lattice, image_sizes: Int64[Tensor, "B 2"] | None
) -> None:
    """Mark what is neither object nor background: sites of the padding, and sites in a region of unknown content."""
    if image_sizes is not None:
        matched.masked_fill_(~lattice.inside(image_sizes), IGNORED)
    if truth.ignored_xyxy.shape[0]:
        points, regions = lattice.points(matched.device), truth.ignored_xyxy[:, None]
        within = ((points >= regions[..., :2]) & (points < regions[..., 2:])).all(dim=-1)  # (R, P)
        count = torch.zeros(matched.shape, dtype=torch.int32, device=matched.device)
        count.index_add_(0, truth.ignored_image_index, within.int())
        matched.masked_fill_((count > 0) & (matched == BACKGROUND), IGNORED)
