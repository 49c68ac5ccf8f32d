"""What all assignments share: a contested location goes to the best claim, and some locations take no part."""

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
    """Give each claimed location to the object of highest value; of equals, to the lowest index. In place.

    Args:
        matched: the object of each location so far.
        best: its value, lower than any claim's where no object is.
        location, gt, value: the claims. The claims on one location may come in several calls, lower objects first.

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
    """Mark what is neither object nor background: locations in the padding, and in regions of unknown content.

    All A anchors of a location share its fate: what counts is where its point lies. So the ignored locations are among
    them all that an object of the region's box could have had: FCOS's and ATSS's lie inside it by definition, and an
    anchor that overlaps it by an IoU of 1/2 or more, or has half its own area in it (mmdetection's ``ignore_iof_thr``),
    has its centre in it, since along each axis half of its side or more is covered. A region smaller than the anchors
    is ignored too, which a share of the anchor's area would miss. A positive in a region stays one. In place.
    """
    if image_sizes is not None:
        matched.masked_fill_(~lattice.inside(image_sizes)[..., None], IGNORED)
    if truth.ignored_xyxy.shape[0]:
        matched.masked_fill_(_in_regions(truth, lattice)[..., None] & (matched == BACKGROUND), IGNORED)


def _in_regions(truth: GroundTruth, lattice: Lattice) -> Bool[Tensor, "B P"]:
    """Which locations lie in an ignored region of their image, its border included.

    Each region adds 1 where its rectangle of locations begins and takes it off where it ends, along both axes; the sums
    along them count the regions of each location.
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
