"""From a photo and its boxes to the network input: zoom, crop, flips and colour.

Axes: N boxes of one image, H W of the current image. The canvas of an image is its size scaled so that the longer side
is ``size``. Training and evaluation use the same canvas, so photos of one shape need no padding in a batch. Each image
is resampled once, after cropping. All randomness comes from torch's global generator.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from focaldet.checks import check_choice
from focaldet.data.images import as_tensor, read_image
from focaldet.photos.images import MAX_PIXELS, fitted_size, read_photo
from focaldet.photos.resize import OWN_RESIZE, Resize

FILL = 114
"""Grey around a photo smaller than its canvas: near the mean of photos, so that the border is a weak edge."""

MIN_VISIBLE = 0.25
"""Lowest visible share of an object. A crop that leaves less turns it into an ignore region."""

MIN_SIDE_PX = 2.0
"""Shortest side of an object, pixels. Thinner ones become ignore regions, too."""


@dataclass(frozen=True)
class View:
    """An image and its boxes, in the pixels of that image.

    Args:
        image: ``(3, H, W)`` uint8, or float in [0, 255] if ``Resize`` does not round colours.
        boxes_xyxy: ``(N, 4)`` float32.
        labels: ``(N,)`` int64.
        ignored: ``(N,)`` bool, True for ignore regions, which are neither object nor background.
    """

    image: UInt8[Tensor, "3 H W"] | Float[Tensor, "3 H W"]
    boxes_xyxy: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]
    ignored: Bool[Tensor, " N"]


@dataclass(frozen=True)
class Strength:
    """Ranges of the augmentation. Values are drawn uniformly, the zoom log-uniformly.

    Args:
        zoom: lowest and highest scale relative to the canvas. Below 1 the photo is surrounded by grey, above 1 it is
            cropped.
        stretch: largest factor between the scales of the two axes.
        colour: brightness, contrast and saturation factors are in ``1 ± colour``.
    """

    zoom: tuple[float, float]
    stretch: float
    colour: float


STRENGTHS: dict[str, Strength | None] = {
    "none": None,
    "light": Strength(zoom=(0.85, 1.2), stretch=1.0, colour=0.1),
    "medium": Strength(zoom=(0.7, 1.5), stretch=1.1, colour=0.25),
    "strong": Strength(zoom=(0.5, 2.0), stretch=1.25, colour=0.4),
}
"""Name of an augmentation strength -> ranges; ``"none"`` disables flips, too."""

CHUNK = 32_768
"""Pixels whose colours are changed at once."""

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

    def read(self, path: Path) -> UInt8[Tensor, "3 H W"]:
        """Read a photo to keep in memory; with the default ``Resize``, already scaled to its canvas."""
        photo = read_photo(path)
        return as_tensor(self.resize(photo, self.size) if self.resize == OWN_RESIZE else photo)

    def __call__(self, view: View) -> View:
        height, width = view.image.shape[-2:]
        image = as_tensor(self.resize(view.image.permute(1, 2, 0).numpy(), self.size))
        scale = torch.tensor([image.shape[2] / width, image.shape[1] / height]).repeat(2)
        return keep_visible(View(image, view.boxes_xyxy * scale, view.labels, view.ignored))


class TrainTransform:
    """Random zoom, crop, flips and colour on the canvas of the image.

    Args:
        size: longer side of the canvas, pixels.
        strength: a key of ``STRENGTHS``.
        flips: one of ``FLIPS``.
    """

    def __init__(self, size: int, *, strength: str = "medium", flips: str = "horizontal") -> None:
        check_choice("strength", strength, STRENGTHS)
        check_choice("flips", flips, FLIPS)
        self.size = size
        self.strength = STRENGTHS[strength]
        self.flips = flips

    @property
    def source_side(self) -> int:
        """Longer side in pixels up to which the resolution of the source image matters."""
        return self.size if self.strength is None else round(self.size * self.strength.zoom[1] * self.strength.stretch)

    def read(self, path: Path) -> UInt8[Tensor, "3 H W"]:
        """Read a photo to keep in memory, no larger than ``source_side``."""
        return read_image(path, max_side=self.source_side)

    def __call__(self, view: View) -> View:
        height, width = view.image.shape[-2:]
        canvas = fitted_size(width, height, self.size)
        if self.strength is None:
            return _resample(view, (0, 0, width, height), canvas)
        if self.flips == "all" and _coin():
            view = _transpose(view)  # with the flips below, all rotations by 90° and their mirror images
        view = zoom_crop(view, canvas, self.size / max(width, height), self.strength)
        if self.flips != "none" and _coin():
            view = _flip(view, horizontal=True)
        if self.flips == "all" and _coin():
            view = _flip(view, horizontal=False)
        return View(jitter_colour(view.image, self.strength.colour), view.boxes_xyxy, view.labels, view.ignored)


def zoom_crop(view: View, canvas: tuple[int, int], base_scale: float, strength: Strength) -> View:
    """Zoom to a random scale, with a single resampling.

    Along each axis, the scaled photo is either cropped to the canvas at a random position, or placed on it at random
    and surrounded by grey.

    Args:
        view: the image and its boxes.
        canvas: (width, height) of the result.
        base_scale: canvas pixels per image pixel at zoom 1.
        strength: ranges of zoom and stretch.
    """
    height, width = view.image.shape[-2:]
    scale = base_scale * _log_uniform(*strength.zoom)
    stretch = _log_uniform(1 / strength.stretch, strength.stretch) ** 0.5
    x1, x2, left, new_w = _place(width, canvas[0], scale * stretch)
    y1, y2, top, new_h = _place(height, canvas[1], scale / stretch)
    seen = _resample(view, (x1, y1, x2, y2), (new_w, new_h))
    if (new_w, new_h) == canvas:
        return seen
    image = torch.full((3, canvas[1], canvas[0]), FILL, dtype=torch.uint8)
    image[:, top : top + new_h, left : left + new_w] = seen.image
    offset = torch.tensor([left, top, left, top], dtype=torch.float32)
    return View(image, seen.boxes_xyxy + offset, seen.labels, seen.ignored)


def _log_uniform(low: float, high: float) -> float:
    """A random number between the two, uniform in its logarithm."""
    return low * (high / low) ** torch.rand(()).item()


def _place(length: int, canvas: int, scale: float) -> tuple[int, int, int, int]:
    """Random placement along one axis: start and end of the source window, its offset and its length on the canvas."""
    where = torch.rand(()).item()
    scaled = max(1, round(length * scale))
    if scaled <= canvas:
        return 0, length, int(where * (canvas - scaled + 1)), scaled
    window = max(1, min(length, round(canvas / scale)))
    start = int(where * (length - window + 1))
    return start, start + window, 0, canvas


def _resample(view: View, window_xyxy: tuple[int, int, int, int], size: tuple[int, int]) -> View:
    """Crop an image to a window and resize it to (width, height); boxes are clipped to the window."""
    x1, y1, x2, y2 = window_xyxy
    image = view.image[:, y1:y2, x1:x2]
    if (x2 - x1, y2 - y1) != size:
        image = F.resize(image, [size[1], size[0]], antialias=True)
    scale = torch.tensor([size[0] / (x2 - x1), size[1] / (y2 - y1)]).repeat(2)
    boxes = (view.boxes_xyxy - torch.tensor([x1, y1, x1, y1], dtype=torch.float32)) * scale
    return keep_visible(View(image, boxes, view.labels, view.ignored))


def keep_visible(view: View) -> View:
    """Clip boxes to the image, and turn objects that are hardly visible into ignore regions.

    As background, they would teach the network that visible parts of objects are not objects.
    """
    height, width = view.image.shape[-2:]
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    clipped = view.boxes_xyxy.clamp(min=0).minimum(limits)
    sides, full_sides = clipped[:, 2:] - clipped[:, :2], view.boxes_xyxy[:, 2:] - view.boxes_xyxy[:, :2]
    visible = sides.prod(1) / full_sides.prod(1).clamp(min=1e-6)
    left = (sides > 0).all(1)
    lost = (visible < MIN_VISIBLE) | (sides < MIN_SIDE_PX).any(1)
    return View(view.image, clipped[left], view.labels[left], (view.ignored | lost)[left])


def jitter_colour(image: UInt8[Tensor, "3 H W"], amount: float) -> UInt8[Tensor, "3 H W"]:
    """Random saturation, contrast and brightness, each by a factor in ``1 ± amount``.

    All three are affine in the colour. One 3 × 3 matrix and one offset apply them in a single pass, without
    intermediate rounding.
    """
    saturation, contrast, brightness = (1 + amount * (2 * torch.rand(3) - 1)).tolist()
    grey = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    matrix = contrast * brightness * (saturation * torch.eye(3) + (1 - saturation) * grey)
    pixels = image.reshape(3, -1)
    # Every 16th pixel suffices for the mean. Integer sums do not depend on the number of threads.
    sample = pixels[:, ::16]
    mean = grey @ (sample.sum(1) / sample.shape[1])
    offset = (1 - contrast) * brightness * mean + 0.5
    coloured = torch.empty_like(pixels)
    for first in range(0, pixels.shape[1], CHUNK):  # what the processor's cache holds
        part = slice(first, first + CHUNK)
        coloured[:, part] = torch.addmm(offset, matrix, pixels[:, part].float()).clamp_(0, 255)
    return coloured.view(image.shape)


def _coin() -> bool:
    return torch.rand(()).item() < 0.5


def _flip(view: View, *, horizontal: bool) -> View:
    height, width = view.image.shape[-2:]
    boxes = tv_tensors.BoundingBoxes(view.boxes_xyxy, format="XYXY", canvas_size=(height, width))
    flip = F.horizontal_flip if horizontal else F.vertical_flip
    return View(flip(view.image), flip(boxes).as_subclass(Tensor), view.labels, view.ignored)


def _transpose(view: View) -> View:
    return View(view.image.transpose(1, 2), view.boxes_xyxy[:, [1, 0, 3, 2]], view.labels, view.ignored)
