"""Task-aligned assignment (Feng et al., TOOD, ICCV 2021, arXiv 2108.07755, section 3.2.1).

The candidates of an object are the locations inside it. Its positives are the ``top_k`` candidates that the network is
best at already: those with the largest alignment ``t = s^α u^β``, where s is their score for the object's class and u
the IoU of their predicted box with the object. A location chosen by several objects goes to the one with the highest
IoU. RTMDet (arXiv 2212.07784) chooses among the same candidates by another value, and a number of them for each object.

The candidates depend on boxes and map shapes alone, so they are listed where the batch is made; only the choice among
them needs predictions. The locations of a level form a lattice, so listing them takes time in proportion to their
number, and no (locations x objects) matrix is built.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from focaldet.assign.claims import ignore_unknown
from focaldet.assign.windows import check_plain, own_columns_and_rows
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, Assignment, GroundTruth


class Candidates(NamedTuple):
    """N pairs of an object and a location inside it, object by object.

    Args:
        gt, image, location: ``(N,)`` the object, its image, and the location in lattice order.
        unmatched: all locations of the batch, as background or ignored.
    """

    gt: Int64[Tensor, " N"]
    image: Int64[Tensor, " N"]
    location: Int64[Tensor, " N"]
    unmatched: Assignment


@torch.no_grad()
def list_candidates(
    truth: GroundTruth, lattice: Lattice, *, image_sizes: Int64[Tensor, "B 2"] | None = None
) -> Candidates:
    """The locations inside each object of a batch.

    Args:
        truth: the objects of the batch.
        lattice: the locations.
        image_sizes: (height, width) of each image's content if the batch is padded. Locations in the padding are
            ignored.

    Raises:
        ValueError: the lattice has steps or a shift.

    >>> box, no_box, zero = torch.tensor([[4.5, 0.0, 24.0, 12.0]]), torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
    >>> truth = GroundTruth(box, zero, zero, 1, no_box, zero[:0])
    >>> list_candidates(truth, Lattice(((4, 4),), (8,))).location
    tensor([1, 2])
    """
    check_plain(lattice)
    boxes, device = truth.boxes_xyxy, truth.boxes_xyxy.device
    strides, starts, widths = (
        torch.tensor(numbers, device=device)
        for numbers in (lattice.strides, lattice.level_starts, [width for _, width in lattice.level_shapes])
    )
    # Column and row of the first and the last location inside each object, on each level: (G, L, 2).
    first = _first_beyond(boxes[:, None, :2], strides[:, None], lattice.offset).clamp(min=0)
    size = own_columns_and_rows(lattice, truth.image_index, image_sizes)
    last = _first_beyond(boxes[:, None, 2:], strides[:, None], lattice.offset, or_at=True).minimum(size) - 1
    columns, rows = (last - first + 1).clamp(min=0).flatten(0, 1).unbind(dim=1)
    corner = (starts + first[..., 1] * widths + first[..., 0]).flatten()

    counts = columns * rows
    window = torch.repeat_interleave(counts)
    cell = torch.arange(window.numel(), device=device) - (counts.cumsum(0) - counts)[window]
    row = cell.div(columns[window], rounding_mode="floor")
    num_levels = len(lattice.strides)
    location = corner[window] + row * (widths.repeat(len(boxes)) - columns)[window] + cell
    gt = window.div(num_levels, rounding_mode="floor")
    unmatched = gt.new_full((truth.num_images, lattice.num_locations, 1), BACKGROUND)
    ignore_unknown(unmatched, truth, lattice, image_sizes)
    return Candidates(gt, truth.image_index[gt], location, Assignment(unmatched[..., 0]))


def _first_beyond(
    side_px: Float[Tensor, "G 1 2"], strides: Int64[Tensor, "L 1"], offset: float, *, or_at: bool = False
) -> Int64[Tensor, "G L 2"]:
    """The first index along each axis with a location at or beyond a side, exactly as a comparison would find it."""
    near = (side_px / strides - offset).floor().long() - 1
    found = near
    for step in range(3):
        position = (near + step + offset) * strides
        found = torch.where(position < side_px if or_at else position <= side_px, near + step + 1, found)
    return found


@torch.no_grad()
def choose_positives(
    candidates: Candidates, value: Float[Tensor, " N"], claim: Float[Tensor, " N"], k: int | Int64[Tensor, " N"]
) -> Bool[Tensor, " N"]:
    """Choose the positives among the candidates of a batch.

    Args:
        candidates: the candidates of the batch.
        value: value of each candidate, at least 0. An object takes the candidates with the largest values, ties to the
            first candidate.
        claim: claim of each candidate, at least 0. A location that several objects take goes to the highest claim (in
            TOOD the IoU of the predicted box with the object), ties to the first object.
        k: largest number of positives per object: one for all, or that of each candidate's object.

    Returns:
        Whether each candidate is positive; at most one candidate per location is.

    >>> two, none = torch.tensor([0, 1]), Assignment(torch.full((1, 2), BACKGROUND))
    >>> pairs = Candidates(torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 1]), none)
    >>> choose_positives(pairs, torch.tensor([0.1, 0.9, 0.2]), torch.tensor([0.5, 0.5, 0.6]), k=1)
    tensor([False, False,  True])
    """
    gt, image, location, unmatched = candidates
    matched = unmatched.matched_gt
    taken = _places(gt, value) < k

    # No mask selects entries, because the host would have to wait for the GPU to count them.
    flat = image * matched.shape[1] + location
    claim = torch.where(taken, claim, -1.0)
    highest = claim.new_full((matched.numel(),), -1.0).scatter_reduce_(0, flat, claim, "amax")
    wins = taken & (claim == highest[flat])
    nobody = torch.iinfo(gt.dtype).max
    winner = gt.new_full((matched.numel(),), nobody).scatter_reduce_(0, flat, gt.where(wins, nobody), "amin")
    return wins & (winner[flat] == gt)


def _places(gt: Int64[Tensor, " N"], value: Float[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """The place of each candidate among those of its object: 0 has the largest value, ties in order."""
    # One sort for both: the bits of a float >= 0 sort like the number itself.
    order = ((gt << 32) - value.float().view(torch.int32)).argsort(stable=True)
    starts = torch.searchsorted(gt, gt)  # where the candidates of the same object begin
    place = torch.empty_like(gt)
    place[order] = torch.arange(gt.numel(), device=gt.device) - starts
    return place


@torch.no_grad()
def dynamic_k(gt: Int64[Tensor, " N"], iou: Float[Tensor, " N"], num_ious: int) -> Int64[Tensor, " N"]:
    """The number of positives of each candidate's object, as in SimOTA: the better its boxes, the more.

    It is the sum of the ``num_ious`` largest IoUs of the object's candidates, rounded down, and at least 1.

    Args:
        gt: the object of each candidate, non-decreasing.
        iou: of its predicted box with its object.

    >>> dynamic_k(torch.tensor([0, 0, 0, 2]), torch.tensor([0.75, 0.5, 0.75, 0.25]), num_ious=3)
    tensor([2, 2, 2, 1])
    """
    owner = torch.searchsorted(gt, gt)  # the first candidate of the same object
    # In fixed point, because a sum of floats depends on their order, which a GPU changes from run to run.
    terms = torch.where(_places(gt, iou) < num_ious, iou.float() * 2.0**32, 0.0).long()
    return (torch.zeros_like(gt).scatter_add_(0, owner, terms)[owner] >> 32).clamp(min=1)


def aligned_targets(
    alignment: Float[Tensor, " N"], iou: Float[Tensor, " N"], gt: Int64[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """The soft target ``t̂`` of N positives: their alignment, scaled so that each object's largest is its highest IoU.

    Args:
        alignment, iou: alignment and IoU of each positive with its object.
        gt: object of each positive, non-decreasing.

    >>> aligned_targets(torch.tensor([1e-6, 5e-7]), torch.tensor([0.6, 0.8]), torch.tensor([3, 3]))
    tensor([0.8000, 0.4000])
    """
    owner = torch.searchsorted(gt, gt)  # the first positive of the same object
    largest, highest = (torch.zeros_like(x).scatter_reduce_(0, owner, x, "amax")[owner] for x in (alignment, iou))
    return alignment / largest.clamp(min=torch.finfo(alignment.dtype).tiny) * highest
