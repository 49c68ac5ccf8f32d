"""The valuable localization region (Zheng et al., CVPR 2022, arXiv 2102.12252, algorithm 1).

Locations around the positives of an object still carry information about its sides. The region consists of those whose
anchors have a DIoU with the object below its ATSS threshold and at least a quarter of it.

Such an anchor overlaps the object. The locations of a level form a lattice, so those with an overlapping anchor lie in
a rectangle around the object, and no (locations x objects) matrix is built.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from focaldet.assign.atss import atss_thresholds
from focaldet.assign.claims import claim
from focaldet.assign.windows import check_plain, locations_within, own_columns_and_rows
from focaldet.boxes.formats import box_centers, square_boxes
from focaldet.boxes.iou import paired_diou
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, Assignment, GroundTruth


@torch.no_grad()
def assign_valuable(
    truth: GroundTruth,
    lattice: Lattice,
    assignment: Assignment,
    *,
    share: float = 0.25,
    top_k: int = 9,
    anchor_scale: float = 8.0,
    image_sizes: Int64[Tensor, "B 2"] | None = None,
) -> Assignment:
    """The object of each location in a valuable region; if there are several, the one with the highest DIoU.

    Args:
        truth, lattice: as for ``assign_atss``.
        assignment: assignment of the same batch; its positives and ignored locations are left out.
        share: the region begins at this share of the threshold.
        top_k, anchor_scale, image_sizes: as for ``assign_atss``.

    >>> from focaldet.assign.atss import assign_atss
    >>> box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    >>> no_box, zero = torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
    >>> truth, lattice = GroundTruth(box, zero, zero, 1, no_box, zero[:0]), Lattice(((8, 8), (4, 4)), (8, 16))
    >>> assign_valuable(truth, lattice, assign_atss(truth, lattice)).matched_gt.ge(0).sum()
    tensor(64)
    """
    check_plain(lattice)
    boxes, device = truth.boxes_xyxy, truth.boxes_xyxy.device
    num_levels = len(lattice.strides)
    matched = torch.full((assignment.matched_gt.numel(),), BACKGROUND, dtype=torch.int64, device=device)
    best = torch.full(matched.shape, -1.0, device=device)
    thresholds = atss_thresholds(truth, lattice, top_k=top_k, anchor_scale=anchor_scale, image_sizes=image_sizes)
    strides = torch.tensor(lattice.strides, device=device)
    reach = (boxes[:, None, 2:] - boxes[:, None, :2]).double() / 2 + anchor_scale / 2 * strides[:, None]
    rectangles = locations_within(
        lattice,
        torch.arange(num_levels, device=device).repeat(boxes.shape[0]),
        box_centers(boxes).double().repeat_interleave(num_levels, dim=0),
        reach.flatten(0, 1),
        own_columns_and_rows(lattice, truth.image_index, image_sizes).flatten(0, 1),
    )
    for rectangle, location, points in rectangles:
        gt = rectangle.div(num_levels, rounding_mode="floor")
        anchors = square_boxes(points, anchor_scale * strides[rectangle % num_levels])
        diou = paired_diou(anchors, boxes[gt])
        inside = (diou >= share * thresholds[gt]) & (diou < thresholds[gt])
        of_batch = truth.image_index[gt] * lattice.num_locations + location
        claim(matched, best, of_batch[inside], gt[inside], diou[inside])
    matched = matched.view(assignment.matched_gt.shape)
    return Assignment(matched.masked_fill(assignment.matched_gt != BACKGROUND, BACKGROUND))
