"""Positions of chosen locations in the maps of their levels, computed before the maps exist.

Finding the locations of a level requires reading tensor values. On a GPU, that waits for the device once per level and
map. Done while the batch is loaded, it costs nothing in the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class LevelIndex:
    """Positions of N chosen locations in the maps of their levels.

    Args:
        rows: row of each location in its level's map as ``(B H W A, D)``, level by level.
        counts: number of locations on each level.
        order: index into ``rows`` of each of the N locations.
    """

    rows: Int64[Tensor, " N"]
    counts: tuple[int, ...]
    order: Int64[Tensor, " N"]

    def to(self, device: torch.device | str) -> "LevelIndex":
        """A copy on another device."""
        rows, order = (x.to(device, non_blocking=True) for x in (self.rows, self.order))
        return LevelIndex(rows, self.counts, order)

    def pin_memory(self) -> "LevelIndex":
        """A copy in pinned memory, from which a GPU copies without waiting."""
        return LevelIndex(self.rows.pin_memory(), self.counts, self.order.pin_memory())

    def gather(self, maps: Sequence[Tensor], channels: int) -> Float[Tensor, "N D"]:
        """The outputs ``(N, D)`` of the chosen locations.

        Args:
            maps: one map ``(B, A * D, H, W)`` per level.
            channels: D, number of channels per anchor.
        """
        levels = zip(maps, torch.split(self.rows, list(self.counts)), strict=True)
        return torch.cat([_rows_of(level, rows, channels) for level, rows in levels])[self.order]


def _rows_of(level: Tensor, rows: Int64[Tensor, " K"], channels: int) -> Float[Tensor, "K D"]:
    if level.is_contiguous(memory_format=torch.channels_last) or not level.requires_grad:
        return level.permute(0, 2, 3, 1).reshape(-1, channels)[rows]
    # Copying the whole map and its gradient for a few rows would cost too much.
    num_anchors, (height, width) = level.shape[1] // channels, level.shape[2:]
    cell, channel = rows // num_anchors, rows % num_anchors * channels
    image, row, column = cell // (height * width), cell // width % height, cell % width
    every = channel[:, None] + torch.arange(channels, device=level.device)
    return level[image[:, None], every, row[:, None], column[:, None]]


def level_index(
    level_shapes: Sequence[tuple[int, int]],
    num_anchors: int,
    image: Int64[Tensor, " N"],
    location: Int64[Tensor, " N"],
) -> LevelIndex:
    """The positions of N locations, given by image and index in lattice order.

    Args:
        level_shapes: (height, width) of each level's map.
        num_anchors: A, number of anchors per location.

    >>> index = level_index(((2, 3), (1, 2)), 1, torch.tensor([0, 1, 1]), torch.tensor([7, 0, 4]))
    >>> index.rows, index.counts, index.order
    (tensor([ 6, 10,  1]), (2, 1), tensor([2, 0, 1]))
    """
    sizes, ends = _sizes_and_ends(level_shapes, num_anchors, location.device)
    level = torch.bucketize(location, ends, right=True)
    rows = image * sizes[level] + location - (ends - sizes)[level]
    by_level = level.argsort(stable=True)
    counts = (level == torch.arange(len(sizes), device=location.device)[:, None]).sum(dim=1).tolist()
    return LevelIndex(rows[by_level], tuple(counts), by_level.argsort())


def level_of(
    level_shapes: Sequence[tuple[int, int]], num_anchors: int, location: Int64[Tensor, " N"]
) -> Int64[Tensor, " N"]:
    """The level of each location; arguments as in ``level_index``.

    >>> level_of(((2, 3), (1, 2)), 1, torch.tensor([7, 0, 4]))
    tensor([1, 0, 0])
    """
    return torch.bucketize(location, _sizes_and_ends(level_shapes, num_anchors, location.device)[1], right=True)


def _sizes_and_ends(
    level_shapes: Sequence[tuple[int, int]], num_anchors: int, device: torch.device
) -> tuple[Int64[Tensor, " L"], Int64[Tensor, " L"]]:
    """Number of locations on each level, and the index in lattice order at which each level ends."""
    sizes = torch.tensor([height * width * num_anchors for height, width in level_shapes], device=device)
    return sizes, sizes.cumsum(0)
