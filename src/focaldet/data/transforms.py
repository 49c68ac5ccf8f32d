"""From a photo and its boxes to the network input: zoom, crop, rotation, flips, mixing and pixel changes.

Axes: N boxes of one image, H W of the current image. The canvas of an image is its size scaled so that the longer side
is ``size``. Training and evaluation use the same canvas, so photos of one shape need no padding in a batch. Each image
is resampled once, after cropping, and a second time only if it is rotated. All randomness comes from torch's global
generator.
"""

import math
from collections.abc import Callable
from copy import copy
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from focaldet.checks import check_choice
from focaldet.data.augmentation import STRENGTHS, Augmentation, Strength
from focaldet.data.images import as_tensor, decode_jpeg, read_image
from focaldet.data.mixing import mixup, mosaic, paste_objects
from focaldet.data.pixels import degrade, jitter_colour, uniform
from focaldet.data.views import View, keep_visible, mirror_boxes, resample, rotate, transpose, with_image, zoom_crop
from focaldet.photos.images import fitted_size, read_photo
from focaldet.photos.limits import MAX_PIXELS
from focaldet.photos.resize import OWN_RESIZE, Resize

AS_IS = Strength(zoom=(1.0, 1.0), stretch=1.0, colour=0.0)
"""The preset ``none``, applied to photos that share a canvas."""

FLIPS = ("none", "horizontal", "all")
"""``"none"``: for objects that mirroring changes (digits, letters, signs). ``"all"``: horizontal and vertical flips and
rotations by 90°, for photos without a fixed orientation (cells, aerial views)."""


class EvalTransform:
    """Scales an image to its canvas.

    Args:
        size: longer side of the canvas, pixels.
        resize: how to scale.

    >>> photo = View(torch.zeros(3, 48, 64, dtype=torch.uint8), torch.tensor([[8.0, 8.0, 24.0, 40.0]]),
    ...              torch.tensor([0]), torch.tensor([False]))
    >>> seen = EvalTransform(32)(photo)
    >>> tuple(seen.image.shape), seen.boxes_xyxy.tolist()
    ((3, 24, 32), [[4.0, 4.0, 12.0, 20.0]])
    """

    def __init__(self, size: int, resize: Resize = OWN_RESIZE) -> None:
        self.size = size
        self.resize = resize

    @property
    def source_side(self) -> int:
        """Longer side in pixels up to which the resolution of the source image matters."""
        return self.size if self.resize == OWN_RESIZE else MAX_PIXELS

    def kept_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a photo from ``read``."""
        return fitted_size(width, height, self.size) if self.resize == OWN_RESIZE else (width, height)

    def read(self, path: Path) -> UInt8[Tensor, "3 H W"]:
        """Read a photo to keep in memory; with the default ``Resize``, already scaled to its canvas."""
        photo = read_photo(path, jpeg=decode_jpeg)
        return as_tensor(self.resize(photo, self.size) if self.resize == OWN_RESIZE else photo)

    def __call__(self, view: View) -> View:
        height, width = view.image.shape[-2:]
        image = as_tensor(self.resize(view.image.permute(1, 2, 0).numpy(), self.size))
        scale = torch.tensor([image.shape[2] / width, image.shape[1] / height]).repeat(2)
        return keep_visible(View(image, view.boxes_xyxy * scale, view.labels, view.ignored))


OTHER_SIZES_STEP = 32
"""``multi-scale`` draws multiples of this many pixels, so that the maps of all levels stay whole."""


class TrainTransform:
    """Random zoom, crop, flips and colour on the canvas of the image, and the chosen further augmentations.

    Args:
        size: longer side of the canvas, pixels.
        strength: preset, a key of ``STRENGTHS``.
        flips: one of ``FLIPS``.
        augmentation: preset and further augmentations; replaces ``strength``.
        own: the user's own transform, applied to the photo as read, before everything else.
    """

    def __init__(
        self,
        size: int,
        *,
        strength: str = "medium",
        flips: str = "horizontal",
        augmentation: Augmentation | None = None,
        own: Callable[[View], View] | None = None,
    ) -> None:
        self.augmentation = Augmentation(strength) if augmentation is None else augmentation
        check_choice("strength", self.augmentation.preset, STRENGTHS)
        check_choice("flips", flips, FLIPS)
        self.size = size
        self.strength = self.augmentation.ranges
        self.flips = flips
        self.own = own

    @property
    def source_side(self) -> int:
        """Longer side in pixels up to which the resolution of the source image matters."""
        size = max(self.sizes)
        return size if self.strength is None else round(size * self.strength.zoom[1] * self.strength.stretch)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that ``multi-scale`` chooses from for each batch; without it, ``size`` alone.

        >>> TrainTransform(320, augmentation=Augmentation(multi_scale=0.2)).sizes
        (256, 288, 320, 352, 384)
        """
        change, step = self.augmentation.multi_scale, OTHER_SIZES_STEP
        low, high = math.ceil(self.size * (1 - change) / step), math.floor(self.size * (1 + change) / step)
        return tuple(step * n for n in range(low, high + 1)) if change and low < high else (self.size,)

    def resized(self, size: int) -> "TrainTransform":
        """A copy for another canvas size."""
        other = copy(self)
        other.size = size
        return other

    def kept_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a photo from ``read``."""
        side = self.source_side
        return fitted_size(width, height, side) if max(width, height) > side else (width, height)

    def read(self, path: Path) -> UInt8[Tensor, "3 H W"]:
        """Read a photo to keep in memory, no larger than ``source_side``."""
        return read_image(path, max_side=self.source_side)

    def __call__(self, view: View, another: Callable[[], View] | None = None) -> View:
        """Augment a photo.

        Args:
            view: the photo as it was read.
            another: draws another photo of the data set, to mix with this one; ``None``: mix nothing.
        """
        canvas = fitted_size(view.image.shape[2], view.image.shape[1], self.size)
        chosen = self.augmentation
        others = None if another is None else lambda: self._owned(another())
        if others is not None and chosen.mosaic and uniform(0, 1) < chosen.mosaic:
            view = mosaic(self._owned(view), others, canvas, self._piece)
        else:
            view = self._placed(self._owned(view), canvas)
        if others is not None and chosen.copy_paste and uniform(0, 1) < chosen.copy_paste:
            view = paste_objects(view, others(), self.size)
        if others is not None and chosen.mixup and uniform(0, 1) < chosen.mixup:
            view = mixup(view, self._placed(others(), canvas))
        if chosen.rotate:
            view = rotate(view, uniform(-chosen.rotate, chosen.rotate))
        left_right = self.strength is not None and self.flips != "none" and _coin()
        upside_down = self.strength is not None and self.flips == "all" and _coin()
        view = mirror_boxes(view, left_right=left_right, upside_down=upside_down)
        return with_image(view, self._recoloured(view.image, left_right=left_right, upside_down=upside_down))

    def _owned(self, view: View) -> View:
        return view if self.own is None else self.own(view)

    def _placed(self, view: View, canvas: tuple[int, int]) -> View:
        """A photo on its canvas."""
        height, width = view.image.shape[-2:]
        if self.strength is None:
            if fitted_size(width, height, self.size) == canvas:
                return resample(view, (0, 0, width, height), canvas)
            return zoom_crop(view, canvas, min(canvas[0] / width, canvas[1] / height), AS_IS)
        view = self._transposed(view)
        return zoom_crop(view, canvas, self.size / max(width, height), self.strength)

    def _piece(self, view: View, size: tuple[int, int], scale: float) -> View:
        """A photo, or the part of it that fits, on a piece of a canvas."""
        base = scale * self.size / max(view.image.shape[-2:])
        return zoom_crop(self._transposed(view), size, base, self.strength or AS_IS)

    def _transposed(self, view: View) -> View:
        # With the flips, all rotations by 90° and their mirror images.
        return transpose(view) if self.strength is not None and self.flips == "all" and _coin() else view

    def _recoloured(
        self, image: UInt8[Tensor, "3 H W"], *, left_right: bool, upside_down: bool
    ) -> UInt8[Tensor, "3 H W"]:
        colour = 0.0 if self.strength is None else self.strength.colour
        if self.strength is not None or self.augmentation.hue:
            hue = self.augmentation.hue
            image = jitter_colour(image, colour, hue, left_right=left_right, upside_down=upside_down)
        return degrade(image, self.augmentation)


def _coin() -> bool:
    return torch.rand(()).item() < 0.5
