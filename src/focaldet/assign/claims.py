"""Shared steps of all assignments: resolve contested locations, and mark ignored ones."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, IGNORED, GroundTruth


def claim(
    matched: Int64[Tensor, " S"],
    best: Float[Tensor, " S"],
    location: Int64[Tensor, " N"],
    gt: Int64[Tensor, " N"],
    value: Float[Tensor, " N"],
) -> None:
    """Give each claimed location to the object with the highest value, ties to the lowest index. In place.

    Args:
        matched: object of each location so far.
        best: value of that object; lower than any claim if there is none.
        location, gt, value: the claims. Claims on one location may be split over calls, with lower objects first.

    >>> matched, best = torch.full((3,), BACKGROUND), torch.full((3,), -1.0)
    >>> claim(matched, best, torch.tensor([0, 0, 2]), torch.tensor([5, 4, 7]), torch.tensor([0.5, 0.5, 0.1]))
    >>> matched
    tensor([ 4, -1,  7])
    """
    before = best[location]
    best.scatter_reduce_(0, location, value, "amax")
    wins = (value == best[location]) & (value > before)
    location, gt = location[wins], gt[wins]
    matched[location] = torch.iinfo(torch.int64).max
    matched.scatter_reduce_(0, location, gt, "amin")


def ignore_unknown(
    matched: Int64[Tensor, "B P A"], truth: GroundTruth, lattice: Lattice, image_sizes: Int64[Tensor, "B 2"] | None
) -> None:
    """Mark locations in padding and in ignore regions as ignored, neither object nor background.

    The point of a location decides for all its A anchors. The ignored locations include every location that an object
    with the region's box could have been assigned. For FCOS and ATSS those lie inside it by definition. An anchor with
    an IoU of at least 1/2, or with half its own area in the region (mmdetection's ``ignore_iof_thr``), has its centre
    inside, because at least half of each side is covered. This also works for regions smaller than the anchors, which a
    threshold on the share of the anchor's area would miss. Positives in a region stay positive. In place.
    """
    if image_sizes is not None:
        matched.masked_fill_(~lattice.inside(image_sizes)[..., None], IGNORED)
    if truth.ignored_xyxy.shape[0]:
        matched.masked_fill_(_in_regions(truth, lattice)[..., None] & (matched == BACKGROUND), IGNORED)


def _in_regions(truth: GroundTruth, lattice: Lattice) -> Bool[Tensor, "B P"]:
    """Mask of the locations inside an ignore region of their image, including its border.

    Each region adds 1 at the start of its rectangle of locations and subtracts it at the end, along both axes.
    Cumulative sums then count the regions that cover each location.
    """
    regions, image = truth.ignored_xyxy.double(), truth.ignored_image_index
    levels = []
    for (height, width), stride in zip(lattice.level_shapes, lattice.strides, strict=True):
        size = torch.tensor([width, height], device=image.device)
        begin = (regions[:, :2] / stride - lattice.offset).ceil().long().clamp(min=0).minimum(size)
        end = (regions[:, 2:] / stride - lattice.offset).floor().long().add(1).minimum(size).maximum(begin)
        count = torch.zeros(truth.num_images, height + 1, width + 1, dtype=torch.int32, device=image.device)
        for x, y, change in ((begin, begin, 1), (end, end, 1), (begin, end, -1), (end, begin, -1)):
            count.index_put_((image, y[:, 1], x[:, 0]), count.new_tensor(change), accumulate=True)
        covered = count.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)[:, :height, :width]
        levels.append((covered > 0).flatten(1))
    return torch.cat(levels, dim=1)
