"""What all assignments share: a contested site goes to the best claim, and some sites take no part."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, IGNORED, GroundTruth


def claim(
    matched: Int64[Tensor, " S"],
    best: Float[Tensor, " S"],
    site: Int64[Tensor, " N"],
    gt: Int64[Tensor, " N"],
    value: Float[Tensor, " N"],
) -> None:
    """Give each claimed site to the object of highest value; of equals, to the lowest index. In place.

    Args:
        matched: the object of each site so far.
        best: its value, lower than any claim's where no object is.
        site, gt, value: the claims. The claims on one site may come in several calls, lower objects first.

    >>> matched, best = torch.full((3,), BACKGROUND), torch.full((3,), -1.0)
    >>> claim(matched, best, torch.tensor([0, 0, 2]), torch.tensor([5, 4, 7]), torch.tensor([0.5, 0.5, 0.1]))
    >>> matched
    tensor([ 4, -1,  7])
    """
    before = best[site]
    best.scatter_reduce_(0, site, value, "amax")
    wins = (value == best[site]) & (value > before)
    site, gt = site[wins], gt[wins]
    matched[site] = torch.iinfo(torch.int64).max
    matched.scatter_reduce_(0, site, gt, "amin")


def ignore_unknown(
    matched: Int64[Tensor, "B P A"], truth: GroundTruth, lattice: Lattice, image_sizes: Int64[Tensor, "B 2"] | None
) -> None:
    """Mark what is neither object nor background: sites of the padding, and sites in a region of unknown content.

    All A anchors of a location share its fate: what counts is where its point lies. In place.
    """
    if image_sizes is not None:
        matched.masked_fill_(~lattice.inside(image_sizes)[..., None], IGNORED)
    if truth.ignored_xyxy.shape[0]:
        points, regions = lattice.points(matched.device), truth.ignored_xyxy[:, None]
        within = ((points >= regions[..., :2]) & (points < regions[..., 2:])).all(dim=-1)  # (R, P)
        count = torch.zeros(matched.shape[:2], dtype=torch.int32, device=matched.device)
        count.index_add_(0, truth.ignored_image_index, within.int())
        matched.masked_fill_((count > 0)[..., None] & (matched == BACKGROUND), IGNORED)
