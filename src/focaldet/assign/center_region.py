"""The centre region of FCOS (Tian et al., ICCV 2019, arXiv 1904.01355; with center sampling, arXiv 2006.09214).

A location is positive for an object when its point lies inside the object and within ``radius`` strides of the object's
centre, and the largest of its distances to the four sides is in the range of the location's level. Of several objects
the smallest has the location.

Only the few locations around each centre are looked at: the work grows with the number of objects, not with the image,
and no (locations x objects) matrix is built.

Where codes differ: inside means strictly inside, and a range includes both its ends, so that a box may train two levels
(the paper, mmdetection). torchvision has ranges of 4 to 8 strides on each level, without their ends, and takes nothing
of an area of 10^8 or more. The centre region is cut at the object's sides: no point outside of the object is positive.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Int64
from torch import Tensor

from focaldet.assign.claims import claim, ignore_unknown
from focaldet.assign.windows import check_plain, locations_within, own_columns_and_rows
from focaldet.boxes.formats import box_centers
from focaldet.boxes.iou import box_area
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, Assignment, GroundTruth

ROUNDING_PX = 1e-2
"""Locations are looked for so much farther than they can be; what counts is the test of each one."""


@torch.no_grad()
def assign_center_region(
    truth: GroundTruth,
    lattice: Lattice,
    *,
    radius: float | None = 1.5,
    ranges: Sequence[tuple[float, float]] | None = None,
    image_sizes: Int64[Tensor, "B 2"] | None = None,
) -> Assignment:
    """Assign the objects of a batch to the locations of a pyramid.

    An object has no location at all when it is so small that it contains no point, or when all points in it go to
    smaller objects.

    Args:
        truth: the batch's objects.
        lattice: the locations, one point each.
        radius: half a side of the centre region, in strides; ``None`` for the whole object.
        ranges: lowest and highest of the largest distance, in pixels, of each level. ``None`` is up to 8 strides, from
            where the level before ends, without an end on the last: the paper's 0, 64, 128, 256, 512, infinity.
        image_sizes: height and width of each image's content when the batch is padded. The padding's locations are
            ignored.

    Returns:
        ``matched_gt`` over the ``B x P`` locations.

    Raises:
        ValueError: ``radius`` is not positive, there is not one range a level, or the lattice has steps or a shift.

    >>> box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    >>> no_box, zero = torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
    >>> truth = GroundTruth(box, zero, zero, 1, no_box, zero[:0])
    >>> lattice = Lattice(((8, 8), (4, 4)), (8, 16))  # the distances are below 64: all on the first level
    >>> assign_center_region(truth, lattice).matched_gt.view(80)[:64].view(8, 8)[2:6, 2:6]
    tensor([[-1, -1, -1, -1],
            [-1,  0,  0, -1],
            [-1,  0,  0, -1],
            [-1, -1, -1, -1]])
    """
    check_plain(lattice)
    if radius is not None and not radius > 0:
        raise ValueError(f"radius: expected a number > 0, or None, got {radius}")
    if ranges is None:
        ranges = level_ranges(lattice.strides)
    if len(ranges) != len(lattice.strides):
        raise ValueError(f"ranges: expected one for each of {len(lattice.strides)} levels, got {len(ranges)}")
    boxes, device = truth.boxes_xyxy, truth.boxes_xyxy.device
    matched = torch.full((truth.num_images * lattice.num_locations,), BACKGROUND, dtype=torch.int64, device=device)
    best = torch.full(matched.shape, -math.inf, device=device)
    low, high = torch.tensor(ranges, dtype=torch.float32, device=device).unbind(dim=1)
    around = torch.tensor(lattice.strides, device=device) * (math.inf if radius is None else radius)

    # How far from the centre a positive location of a level may be, along x and y: (G, L, 2).
    half = (boxes[:, None, 2:] - boxes[:, None, :2]).double() / 2
    reach = torch.minimum(half, around[:, None]).minimum(high[:, None] - half)
    possible = (reach > -ROUNDING_PX).all(dim=-1) & ((half + reach).amax(dim=-1) >= low - ROUNDING_PX)
    gt_of_window, level = possible.nonzero(as_tuple=True)
    windows = locations_within(
        lattice,
        level,
        box_centers(boxes.double())[gt_of_window],
        reach[gt_of_window, level] + ROUNDING_PX,
        own_columns_and_rows(lattice, truth.image_index, image_sizes)[gt_of_window, level],
    )

    areas, centers = box_area(boxes), box_centers(boxes)
    for window, location, points in windows:
        gt, of_level = gt_of_window[window], level[window]
        distances = torch.cat([points - boxes[gt, :2], boxes[gt, 2:] - points], dim=-1)
        largest = distances.amax(dim=-1)
        center, margin = centers[gt], around[of_level, None]
        near = ((points > center - margin) & (points < center + margin)).all(dim=-1)
        positive = near & (distances > 0).all(dim=-1) & (largest >= low[of_level]) & (largest <= high[of_level])
        location_of_batch = truth.image_index[gt] * lattice.num_locations + location
        claim(matched, best, location_of_batch[positive], gt[positive], -areas[gt[positive]])

    matched = matched.view(truth.num_images, lattice.num_locations)
    ignore_unknown(matched[..., None], truth, lattice, image_sizes)
    return Assignment(matched)


def level_ranges(strides: Sequence[int]) -> list[tuple[float, float]]:
    """The paper's ranges of each level: as far as 8 strides, from where the level before ends.

    >>> level_ranges((8, 16, 32))
    [(0.0, 64.0), (64.0, 128.0), (128.0, inf)]
    """
    ends = [0.0, *(8.0 * stride for stride in strides[:-1]), math.inf]
    return list(pairwise(ends))
