"""An image with its boxes, and operations that move both: zoom and crop, flips, a small rotation.

Axes: N boxes of one image, H W of the current image. All randomness comes from torch's global generator.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from focaldet.data.augmentation import Strength
from focaldet.data.pixels import from_pillow, to_pillow
from focaldet.photos.tiling import FILL

MIN_VISIBLE = 0.25
"""Lowest visible share of an object. A crop that leaves less turns it into an ignore region."""

MIN_SIDE_PX = 2.0
"""Shortest side of an object, pixels. Thinner objects become ignore regions, too."""


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
    scale = base_scale * log_uniform(*strength.zoom)
    stretch = log_uniform(1 / strength.stretch, strength.stretch) ** 0.5
    x1, x2, left, new_w = _place(width, canvas[0], scale * stretch)
    y1, y2, top, new_h = _place(height, canvas[1], scale / stretch)
    seen = resample(view, (x1, y1, x2, y2), (new_w, new_h))
    if (new_w, new_h) == canvas:
        return seen
    return on_grey(seen, canvas, (left, top))


def on_grey(view: View, canvas: tuple[int, int], corner: tuple[int, int]) -> View:
    """Place an image on a grey canvas (width, height), with its top left corner at (x, y)."""
    (height, width), (left, top) = view.image.shape[-2:], corner
    image = torch.full((canvas[1], canvas[0], 3), FILL, dtype=torch.uint8).permute(2, 0, 1)  # in the order of photos
    image[:, top : top + height, left : left + width] = view.image
    offset = torch.tensor([left, top, left, top], dtype=torch.float32)
    return View(image, view.boxes_xyxy + offset, view.labels, view.ignored)


def log_uniform(low: float, high: float) -> float:
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


def resample(view: View, window_xyxy: tuple[int, int, int, int], size: tuple[int, int]) -> View:
    """Crop an image to a window and resize it to (width, height); boxes are clipped to the window."""
    x1, y1, x2, y2 = window_xyxy
    image = view.image[:, y1:y2, x1:x2]
    if (x2 - x1, y2 - y1) != size:
        image = F.resize(image, [size[1], size[0]], antialias=True)
    scale = np.array([size[0] / (x2 - x1), size[1] / (y2 - y1)] * 2, np.float32)
    boxes = (view.boxes_xyxy.numpy() - np.array([x1, y1, x1, y1], np.float32)) * scale
    return keep_visible(View(image, torch.from_numpy(boxes), view.labels, view.ignored))


def keep_visible(view: View) -> View:
    """Clip boxes to the image, and turn objects that are hardly visible into ignore regions.

    As background, they would teach the network that visible parts of objects are not objects.
    """
    height, width = view.image.shape[-2:]
    boxes = view.boxes_xyxy.numpy()  # for so few numbers, several times as fast as torch
    clipped = boxes.clip(0, np.array([width, height, width, height], np.float32))
    sides, full_sides = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    visible = sides[:, 0] * sides[:, 1] / (full_sides[:, 0] * full_sides[:, 1]).clip(1e-6)
    left = (sides > 0).all(1)
    lost = (visible < MIN_VISIBLE) | (sides < MIN_SIDE_PX).any(1)
    ignored = torch.from_numpy(view.ignored.numpy() | lost)
    if left.all():
        return View(view.image, torch.from_numpy(clipped), view.labels, ignored)
    kept = torch.from_numpy(left)
    return View(view.image, torch.from_numpy(clipped)[kept], view.labels[kept], ignored[kept])


def mirror_boxes(view: View, *, left_right: bool, upside_down: bool) -> View:
    """Mirror the boxes but not the image."""
    boxes = view.boxes_xyxy
    for axis, wanted in ((0, left_right), (1, upside_down)):
        if wanted:
            boxes = boxes.clone()
            length = view.image.shape[2 - axis]
            boxes[:, axis], boxes[:, axis + 2] = length - boxes[:, axis + 2], length - boxes[:, axis]
    return replace(view, boxes_xyxy=boxes)


def transpose(view: View) -> View:
    """Swap the axes of an image."""
    return View(view.image.transpose(1, 2), view.boxes_xyxy[:, [1, 0, 3, 2]], view.labels, view.ignored)


def rotate(view: View, degrees: float) -> View:
    """Rotate an image about its centre, anticlockwise; grey fills the corners.

    An object's new box encloses the rotated ellipse of its old box. The box around the four rotated corners would be
    too large for nearly every object ("Towards Rotation Invariance in Object Detection", Kalra et al., ICCV 2021).
    Ignore regions do get that larger box.
    """
    height, width = view.image.shape[-2:]
    turned = to_pillow(view.image).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(FILL, FILL, FILL))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half = (view.boxes_xyxy[:, 2:] - view.boxes_xyxy[:, :2]) / 2
    middle = torch.tensor([width, height]) / 2
    x, y = (view.boxes_xyxy[:, :2] + half - middle).unbind(1)
    centre = torch.stack([cos * x + sin * y, cos * y - sin * x], 1) + middle
    across, along = half * abs(cos), half.flip(1) * abs(sin)
    half = torch.where(view.ignored[:, None], across + along, across.hypot(along))
    boxes = torch.cat([centre - half, centre + half], 1)
    return keep_visible(View(from_pillow(turned), boxes, view.labels, view.ignored))


def with_image(view: View, image: UInt8[Tensor, "3 H W"]) -> View:
    """The same boxes on another image of the same size."""
    return replace(view, image=image)
