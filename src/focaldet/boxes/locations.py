"""The prediction locations of a pyramid: a regular lattice of locations on each level.

Location (row i, column j) of a level with stride s is centred on pixel ``((j + offset) * s, (i + offset) * s)``. Public
codes disagree on ``offset`` (0 or ½), and weights trained with one decode half a stride off with the other: so it is a
stored property of a model, never a constant in the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from focaldet.boxes.level_index import level_index


@dataclass(frozen=True)
class Locations:
    """What N prediction locations need to know of themselves to write a box as numbers and to read it back.

    Args:
        points_xy: ``(N, 2)`` the centre of each, pixels.
        strides: ``(N,)`` of its level, pixels.
        anchors_xyxy: ``(N, 4)`` its anchor, pixels, for a method that has anchors.
    """

    points_xy: Float[Tensor, "N 2"]
    strides: Float[Tensor, " N"]
    anchors_xyxy: Float[Tensor, "N 4"] | None = None

    def __getitem__(self, index: Tensor) -> "Locations":
        anchors = None if self.anchors_xyxy is None else self.anchors_xyxy[index]
        return Locations(self.points_xy[index], self.strides[index], anchors)


@dataclass(frozen=True)
class Lattice:
    """All locations of a pyramid in their one order: level by level, row by row.

    Args:
        level_shapes: (height, width) of each level's map, in locations.
        strides: pixels between neighbouring locations of each level.
        offset: centre of a cell within the cell, in strides.
        shift_px: added to every centre: -½ in codes that number the pixels' middles.
        steps: (vertical, horizontal) pixels between neighbouring locations of each level, where they are not the stride
            (see ``fitted_steps``). Read by ``points`` only: what is assigned by closed form keeps to the strides.

    >>> lattice = Lattice(((2, 3), (1, 2)), (8, 16))
    >>> lattice.num_locations
    8
    >>> lattice.points()[:2], lattice.points()[-1]
    (tensor([[ 4.,  4.], [12.,  4.]]), tensor([24.,  8.]))
    """

    level_shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    offset: float = 0.5
    shift_px: float = 0.0
    steps: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if len(self.level_shapes) != len(self.strides):
            raise ValueError(
                f"a stride for each level: expected {len(self.level_shapes)} strides, got {len(self.strides)}"
            )

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of locations of each level."""
        return tuple(height * width for height, width in self.level_shapes)

    @property
    def level_starts(self) -> tuple[int, ...]:
        """Index of each level's first location."""
        starts = [0]
        for size in self.level_sizes[:-1]:
            starts.append(starts[-1] + size)
        return tuple(starts)

    @property
    def num_locations(self) -> int:
        """P, the number of locations of all levels."""
        return sum(self.level_sizes)

    def points(self, device: torch.device | str | None = None) -> Float[Tensor, "P 2"]:
        """The centre (x, y) of every location, in pixels."""
        return torch.cat(self.level_points(device))

    def level_points(self, device: torch.device | str | None = None) -> list[Float[Tensor, "_ 2"]]:
        """The same, level by level."""
        levels = []
        steps = self.steps or tuple((stride, stride) for stride in self.strides)
        for (height, width), (down, right) in zip(self.level_shapes, steps, strict=True):
            y = (torch.arange(height, device=device, dtype=torch.float32) + self.offset) * down + self.shift_px
            x = (torch.arange(width, device=device, dtype=torch.float32) + self.offset) * right + self.shift_px
            levels.append(
                torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)
            )
        return levels

    def location_strides(self, device: torch.device | str | None = None) -> Float[Tensor, " P"]:
        """The stride of every location's level, in pixels."""
        return torch.cat(
            [
                torch.full((size,), float(stride), device=device)
                for size, stride in zip(self.level_sizes, self.strides, strict=True)
            ]
        )

    def inside(self, image_sizes: Tensor) -> Bool[Tensor, "B P"]:
        """Which locations an image has of its own, when it was padded to the batch's size.

        Args:
            image_sizes: ``(B, 2)`` height and width in pixels of each image's content, at the top left.

        Returns:
            ``(B, P)``: True where the location's cell begins inside the content, which are exactly the locations of the
            image alone, unpadded.
        """
        corner = self.points(image_sizes.device) - self.offset * self.location_strides(image_sizes.device)[:, None]
        height, width = image_sizes[:, :1], image_sizes[:, 1:]
        return (corner[:, 0] < width) & (corner[:, 1] < height)


def fitted_steps(level_shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The image's side divided by each map's, rounded down: the (vertical, horizontal) steps of torchvision's anchors.

    A map's size is rounded up at each level, so that on coarse levels these are shorter than the stride.

    Args:
        level_shapes: of an image whose sides are multiples of the first stride.

    >>> fitted_steps(((100, 136), (50, 68), (25, 34), (13, 17), (7, 9)), (8, 16, 32, 64, 128))
    ((8, 8), (16, 16), (32, 32), (61, 64), (114, 120))
    """
    image_height, image_width = (side * strides[0] for side in level_shapes[0])
    return tuple((image_height // height, image_width // width) for height, width in level_shapes)


def flatten_levels(maps: Sequence[Tensor], channels: int) -> Float[Tensor, "B P D"]:
    """Per-level maps ``(B, A * D, H, W)`` as one ``(B, P, D)``, in the lattice's order.

    Args:
        maps: one map a level.
        channels: D, the numbers that belong to one location.
    """
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps], dim=1)


def gather_locations(
    maps: Sequence[Tensor], channels: int, image: Int64[Tensor, " N"], location: Int64[Tensor, " N"]
) -> Float[Tensor, "N D"]:
    """The channels of chosen locations: ``flatten_levels(maps, channels)[image, location]`` without copying all of it.

    Args:
        maps: one map ``(B, A * D, H, W)`` a level.
        channels: D, the numbers that belong to one location.
        image, location: the chosen locations, by image and by place in the lattice's order.

    >>> maps = [torch.arange(12.0).view(1, 2, 2, 3), torch.arange(4.0).view(1, 2, 1, 2)]
    >>> gather_locations(maps, 2, torch.tensor([0, 0]), torch.tensor([4, 7]))
    tensor([[ 4., 10.],
            [ 1.,  3.]])
    """
    num_anchors = maps[0].shape[1] // channels
    index = level_index([(level.shape[2], level.shape[3]) for level in maps], num_anchors, image, location)
    return index.gather(maps, channels)
