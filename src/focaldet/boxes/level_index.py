"""Where chosen locations of a pyramid are in the maps of their levels, known before the maps are.

Which of N locations lie on a level is a question to the values of a tensor. Asked on a GPU it waits for the device,
once a level and map; asked where the batch is made it costs nothing in the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class LevelIndex:
    """The places of N chosen locations in their levels' maps.

    Args:
        places: image, row, column and anchor of each, level by level.
        counts: how many each level has.
        order: where each of the N is in ``places``.
    """

    places: Int64[Tensor, "4 N"]
    counts: tuple[int, ...]
    order: Int64[Tensor, " N"]

    def to(self, device: torch.device | str) -> "LevelIndex":
        """The same on another device."""
        places, order = (x.to(device, non_blocking=True) for x in (self.places, self.order))
        return LevelIndex(places, self.counts, order)

    def pin_memory(self) -> "LevelIndex":
        """The same where a GPU copies from without waiting."""
        return LevelIndex(self.places.pin_memory(), self.counts, self.order.pin_memory())

    def gather(self, maps: Sequence[Tensor], channels: int) -> Float[Tensor, "N D"]:
        """The numbers of the chosen locations.

        Args:
            maps: one map ``(B, A * D, H, W)`` a level.
            channels: D, the numbers that belong to one location and anchor.
        """
        found = []
        for level, places in zip(maps, torch.split(self.places, list(self.counts), dim=1), strict=True):
            image, row, column, anchor = places.unbind()
            if level.shape[1] == channels:
                found.append(level[image, :, row, column])
            else:
                channel = anchor[:, None] * channels + torch.arange(channels, device=level.device)
                found.append(level[image[:, None], channel, row[:, None], column[:, None]])
        return torch.cat(found)[self.order]


def level_index(
    level_shapes: Sequence[tuple[int, int]], num_anchors: int, image: Int64[Tensor, " N"], location: Int64[Tensor, " N"]
) -> LevelIndex:
    """The places of N locations that are given by their image and their place in the pyramid's order.

    Args:
        level_shapes: (height, width) of each level's map.
        num_anchors: A, of each location.

    >>> index = level_index(((2, 3), (1, 2)), 1, torch.tensor([0, 1, 1]), torch.tensor([7, 0, 4]))
    >>> index.places, index.counts, index.order
    (tensor([[1, 1, 0],
             [0, 1, 0],
             [0, 1, 1],
             [0, 0, 0]]), (2, 1), tensor([2, 0, 1]))
    """
    device = location.device
    sizes = torch.tensor([height * width * num_anchors for height, width in level_shapes], device=device)
    widths = torch.tensor([width for _, width in level_shapes], device=device)
    ends = sizes.cumsum(0)
    level = torch.bucketize(location, ends, right=True)
    inside = location - (ends - sizes)[level]
    cell, anchor = inside // num_anchors, inside % num_anchors
    places = torch.stack([image, cell // widths[level], cell % widths[level], anchor])
    by_level = level.argsort(stable=True)
    counts = torch.bincount(level, minlength=len(sizes)).tolist()
    return LevelIndex(places[:, by_level], tuple(counts), by_level.argsort())
