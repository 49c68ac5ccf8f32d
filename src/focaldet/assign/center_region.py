"""The centre region of FCOS (Tian et al., ICCV 2019, arXiv 1904.01355; with center sampling, arXiv 2006.09214).

A location is positive for an object if its point lies inside the object and within ``radius`` strides of the object's
centre, and if the largest of its distances to the four sides is in the range of its level. If several objects qualify,
the smallest one gets the location.

Only the few locations around each centre are examined. Time grows with the number of objects, not with the image, and
no (locations x objects) matrix is built.

Where implementations differ: inside means strictly inside, and a range includes both ends, so a box may train two
levels (as in the paper and mmdetection). torchvision uses ranges of 4 to 8 strides on each level without their ends,
and assigns nothing to objects with an area of 10^8 or more. The centre region is clipped to the object: no point
outside the object is positive.
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
"""Margin of the search for rounding errors. Each location found is then tested exactly."""


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

    An object gets no location if it is too small to contain a point, or if all points inside it go to smaller objects.

    Args:
        truth: the objects of the batch.
        lattice: the locations.
        radius: half the side of the centre region, in strides; ``None`` for the whole object.
        ranges: lower and upper bound on the largest distance, in pixels, for each level. ``None``: each level ends at 8
            strides, starts where the previous one ends, and the last has no end: the paper's 0, 64, 128, 256, 512,
            infinity.
        image_sizes: (height, width) of each image's content if the batch is padded. Locations in the padding are
            ignored.

    Returns:
        ``matched_gt`` over the ``B x P`` locations.

    Raises:
        ValueError: ``radius`` is not positive, the number of ranges differs from that of the levels, or the lattice has
            steps or a shift.

    >>> box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    >>> no_box, zero = torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
    >>> truth = GroundTruth(box, zero, zero, 1, no_box, zero[:0])
    >>> lattice = Lattice(((8, 8), (4, 4)), (8, 16))  # all distances are below 64: only the first level
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
    """The paper's ranges: each level ends at 8 strides and starts where the previous one ends.

    >>> level_ranges((8, 16, 32))
    [(0.0, 64.0), (64.0, 128.0), (128.0, inf)]
    """
    ends = [0.0, *(8.0 * stride for stride in strides[:-1]), math.inf]
    return list(pairwise(ends))
