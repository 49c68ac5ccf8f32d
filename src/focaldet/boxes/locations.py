"""The locations of a pyramid: a regular lattice on each level.

Location (row i, column j) of a level with stride s is centred on pixel ``((j + offset) * s, (i + offset) * s)``.
Published implementations disagree on ``offset`` (0 or ½), and weights trained with one are decoded half a stride off
with the other. It is therefore stored with the model, never a constant in the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from focaldet.boxes.level_index import level_index


@dataclass(frozen=True)
class Locations:
    """Geometry of N locations, as needed to encode and decode boxes.

    Args:
        points_xy: ``(N, 2)`` centres, pixels.
        strides: ``(N,)`` strides of their levels, pixels.
        anchors_xyxy: ``(N, 4)`` anchors, pixels, or ``None`` for methods without anchors.
    """

    points_xy: Float[Tensor, "N 2"]
    strides: Float[Tensor, " N"]
    anchors_xyxy: Float[Tensor, "N 4"] | None = None

    def __getitem__(self, index: Tensor) -> "Locations":
        anchors = None if self.anchors_xyxy is None else self.anchors_xyxy[index]
        return Locations(self.points_xy[index], self.strides[index], anchors)


@dataclass(frozen=True)
class Lattice:
    """All locations of a pyramid in a fixed order: level by level, row by row.

    Args:
        level_shapes: (height, width) of each level's map, in locations.
        strides: pixels between neighbouring locations of each level.
        offset: position of the centre within its cell, in strides.
        shift_px: added to every centre; -½ for implementations in which pixel centres have integer coordinates.
        steps: (vertical, horizontal) pixels between neighbouring locations of each level, if they differ from the
            stride (see ``fitted_steps``). Used by ``points`` only: closed-form assignment requires the strides.

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
        """Index of the first location of each level."""
        starts = [0]
        for size in self.level_sizes[:-1]:
            starts.append(starts[-1] + size)
        return tuple(starts)

    @property
    def num_locations(self) -> int:
        """P, the number of locations on all levels."""
        return sum(self.level_sizes)

    def points(self, device: torch.device | str | None = None) -> Float[Tensor, "P 2"]:
        """Centre (x, y) of each location, in pixels."""
        return torch.cat(self.level_points(device))

    def level_points(self, device: torch.device | str | None = None) -> list[Float[Tensor, "_ 2"]]:
        """Centre (x, y) of each location, in pixels, level by level."""
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
        """Stride of each location's level, in pixels."""
        return torch.cat(
            [
                torch.full((size,), float(stride), device=device)
                for size, stride in zip(self.level_sizes, self.strides, strict=True)
            ]
        )

    def inside(self, image_sizes: Tensor) -> Bool[Tensor, "B P"]:
        """Mask of the locations inside each image, excluding the padding to the batch size.

        Args:
            image_sizes: ``(B, 2)`` height and width in pixels of each image's content, at the top left.

        Returns:
            ``(B, P)``: True where the location's cell begins inside the content. These are exactly the locations that
            the image would have without padding.
        """
        corner = self.points(image_sizes.device) - self.offset * self.location_strides(image_sizes.device)[:, None]
        height, width = image_sizes[:, :1], image_sizes[:, 1:]
        return (corner[:, 0] < width) & (corner[:, 1] < height)


def fitted_steps(level_shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(vertical, horizontal) steps of torchvision's anchors: image side over map side, rounded down.

    Map sizes are rounded up at each level, so the steps of coarse levels are shorter than the stride.

    Args:
        level_shapes: (height, width) of each level, for an image whose sides are multiples of the first stride.

    >>> fitted_steps(((100, 136), (50, 68), (25, 34), (13, 17), (7, 9)), (8, 16, 32, 64, 128))
    ((8, 8), (16, 16), (32, 32), (61, 64), (114, 120))
    """
    image_height, image_width = (side * strides[0] for side in level_shapes[0])
    return tuple((image_height // height, image_width // width) for height, width in level_shapes)


def flatten_levels(maps: Sequence[Tensor], channels: int) -> Float[Tensor, "B P D"]:
    """Concatenate per-level maps ``(B, A * D, H, W)`` to one ``(B, P, D)``, in lattice order.

    Args:
        maps: one map per level.
        channels: D, number of channels per anchor.
    """
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps], dim=1)


def gather_locations(
    maps: Sequence[Tensor], channels: int, image: Int64[Tensor, " N"], location: Int64[Tensor, " N"]
) -> Float[Tensor, "N D"]:
    """``flatten_levels(maps, channels)[image, location]`` without copying all locations.

    Args:
        maps: one map ``(B, A * D, H, W)`` per level.
        channels: D, number of channels per anchor.
        image, location: index of the image, and of the location in lattice order.

    >>> maps = [torch.arange(12.0).view(1, 2, 2, 3), torch.arange(4.0).view(1, 2, 1, 2)]
    >>> gather_locations(maps, 2, torch.tensor([0, 0]), torch.tensor([4, 7]))
    tensor([[ 4., 10.],
            [ 1.,  3.]])
    """
    num_anchors = maps[0].shape[1] // channels
    index = level_index([(level.shape[2], level.shape[3]) for level in maps], num_anchors, image, location)
    return index.gather(maps, channels)
