"""Locations of a pyramid inside rectangles, by index arithmetic: the work grows with the result, not with the image."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from focaldet.boxes.locations import Lattice

CHUNK = 2**16
"""Approximate number of elements processed at a time, which bounds the memory."""


def check_plain(lattice: Lattice) -> None:
    """Raise ValueError unless the locations lie at multiples of the strides, as index arithmetic assumes."""
    if lattice.steps is not None or lattice.shift_px:
        raise ValueError(
            f"lattice: expected neither steps nor a shift where objects are assigned, got steps {lattice.steps} and "
            f"shift_px {lattice.shift_px}"
        )


def own_columns_and_rows(
    lattice: Lattice, image_index: Int64[Tensor, " N"], image_sizes: Int64[Tensor, "B 2"] | None
) -> Int64[Tensor, "N L 2"]:
    """Number of columns and rows (x, y) of each level inside each image, excluding the padding to the batch size.

    >>> lattice = Lattice(((4, 8), (2, 4)), (8, 16))
    >>> own_columns_and_rows(lattice, torch.tensor([0]), torch.tensor([[20, 64]]))
    tensor([[[8, 3],
             [4, 2]]])
    """
    shapes = torch.tensor(lattice.level_shapes, device=image_index.device).flip(-1)
    if image_sizes is None:
        return shapes.expand(image_index.numel(), -1, -1)
    strides = torch.tensor(lattice.strides, device=image_index.device)[:, None]
    own = (image_sizes[image_index].flip(-1)[:, None] + (strides - 1)) // strides
    return own.minimum(shapes)


def locations_within(
    lattice: Lattice,
    level: Int64[Tensor, " N"],
    centers: Float64[Tensor, "N 2"],
    reach: Float64[Tensor, "N 2"],
    columns_and_rows: Int64[Tensor, "N 2"],
) -> Iterator[tuple[Int64[Tensor, " K"], Int64[Tensor, " K"], Float[Tensor, "K 2"]]]:
    """Yield the locations inside N rectangles, each on one level, in chunks of bounded size.

    Args:
        lattice: the locations.
        level: level of each rectangle.
        centers: (x, y) of the centre of each rectangle, pixels.
        reach: largest distance from the centre along x and y, pixels.
        columns_and_rows: number of columns and rows of the level in the rectangle's image.

    Yields:
        For each location found: index of its rectangle (non-decreasing), index of the location, and its (x, y).

    >>> lattice = Lattice(((4, 4),), (8,))
    >>> middle, reach = torch.tensor([[12.0, 4.0]]).double(), torch.tensor([[8.0, 0.0]]).double()
    >>> for part in locations_within(lattice, torch.tensor([0]), middle, reach, torch.tensor([[4, 4]])):
    ...     print(part)
    (tensor([0, 0, 0]), tensor([0, 1, 2]), tensor([[ 4.,  4.], [12.,  4.], [20.,  4.]]))
    """
    device = level.device
    strides = torch.tensor(lattice.strides, device=device)
    starts = torch.tensor(lattice.level_starts, device=device)
    widths = torch.tensor([width for _, width in lattice.level_shapes], device=device)
    stride = strides[level, None]
    first = ((centers - reach) / stride - lattice.offset).ceil().long().clamp(min=0)
    last = ((centers + reach) / stride - lattice.offset).floor().long().minimum(columns_and_rows - 1)
    sides = (last - first + 1).clamp(min=0)
    for rectangle, cell in ragged(sides.prod(dim=1)):
        columns = sides[rectangle, 0]
        index = first[rectangle] + torch.stack([cell % columns, cell // columns], dim=-1)  # column and row
        of_level = level[rectangle]
        location = starts[of_level] + index[:, 1] * widths[of_level] + index[:, 0]
        yield rectangle, location, (index.float() + lattice.offset) * strides[of_level, None]


def ragged(counts: Int64[Tensor, " N"]) -> Iterator[tuple[Int64[Tensor, " K"], Int64[Tensor, " K"]]]:
    """For each of N counts, yield its index repeated, together with 0, 1, 2, ... up to the count.

    In chunks of about ``CHUNK`` elements; a count is never split.

    >>> list(ragged(torch.tensor([2, 0, 3])))
    [(tensor([0, 0, 2, 2, 2]), tensor([0, 1, 0, 1, 2]))]
    """
    if not counts.numel():
        return
    ends = counts.cumsum(dim=0)
    multiples = CHUNK * torch.arange(1, int(ends[-1]) // CHUNK + 1, device=counts.device)
    cuts = torch.searchsorted(ends, multiples, right=True).tolist()
    for first, last in pairwise([0, *cuts, counts.numel()]):
        of_part = counts[first:last]
        owner = torch.repeat_interleave(of_part)
        before = of_part.cumsum(dim=0) - of_part
        if owner.numel():
            yield owner + first, torch.arange(owner.numel(), device=counts.device) - before[owner]
