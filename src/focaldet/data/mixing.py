"""Samples from several photos: a mosaic, objects pasted from another photo, two photos blended.

They have more objects, on new backgrounds and next to new neighbours. Objects cut by a seam or covered by a pasted
object are treated as in other crops: a hardly visible box becomes an ignore region. All randomness comes from torch's
global generator.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from focaldet.data.pixels import uniform
from focaldet.data.views import View, log_uniform, resample

CENTRE = (0.3, 0.7)
"""Range of the point where the four photos of a mosaic meet, as shares of the canvas."""

PIECE_SCALE = (0.5, 1.0)
"""Range of scales in a mosaic: from whole photos at half size to parts at full size."""

MAX_PASTED = 3
"""Largest number of objects that one sample gets from another photo."""

PASTED_SCALE = (0.7, 1.4)
"""Range of scales of a pasted object, relative to its own photo on a canvas."""

MARGIN = 0.1
"""Margin around a pasted object that fades into the new background, as a share of the object's sides."""

MAX_COVERED = 0.3
"""Largest share of an object that a pasted object may cover."""

TRIES = 10
"""Number of random places to try for a pasted object."""

MIXUP_SHARE = (0.4, 0.6)
"""Range of the first photo's weight in a blend: both photos stay visible, so both can be trained on."""

Place = Callable[[View, tuple[int, int], float], View]
"""Places a photo, or the part that fits, on a piece of a canvas of this (width, height), at this scale."""


def mosaic(view: View, another: Callable[[], View], canvas: tuple[int, int], place: Place) -> View:
    """Four photos on one canvas, the first of them in a random corner.

    Args:
        view: the first photo.
        another: draws another one.
        canvas: (width, height) of the result.
        place: places a photo on its quarter.
    """
    width, height = canvas
    x, y = round(width * uniform(*CENTRE)), round(height * uniform(*CENTRE))
    corner = int(torch.randint(4, ()))
    image = torch.empty(3, height, width, dtype=torch.uint8)
    boxes, labels, ignored = [], [], []
    for index, (x1, y1, x2, y2) in enumerate(
        [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    ):
        source = view if index == corner else another()
        piece = place(source, (x2 - x1, y2 - y1), log_uniform(*PIECE_SCALE))
        image[:, y1:y2, x1:x2] = piece.image
        boxes.append(piece.boxes_xyxy + torch.tensor([x1, y1, x1, y1], dtype=torch.float32))
        labels.append(piece.labels)
        ignored.append(piece.ignored)
    return View(image, torch.cat(boxes), torch.cat(labels), torch.cat(ignored))


def paste_objects(view: View, other: View, size: int) -> View:
    """Paste up to three objects of another photo where they cover little of the existing objects.

    Each comes with a margin of its background, which fades into the new one. Neighbours that reach into the margin keep
    their boxes.

    Args:
        view: a photo on its canvas.
        other: another photo as it was read.
        size: longer side of the other photo on a canvas.
    """
    objects = (~other.ignored).nonzero().flatten()
    for _ in range(int(torch.randint(1, MAX_PASTED + 1, ())) if len(objects) else 0):
        box = other.boxes_xyxy[objects[torch.randint(len(objects), ())]]
        scale = size / max(other.image.shape[-2:]) * log_uniform(*PASTED_SCALE)
        view = _pasted(view, _patch(other, box, scale))
    return view


def _patch(photo: View, box_xyxy: Float[Tensor, "4"], scale: float) -> View:
    """An object with its margin, scaled."""
    height, width = photo.image.shape[-2:]
    margin = MARGIN * (box_xyxy[2:] - box_xyxy[:2])
    low = (box_xyxy[:2] - margin).floor().clamp(min=0)
    high = (box_xyxy[2:] + margin).ceil().minimum(torch.tensor([width, height]))
    x1, y1, x2, y2 = (int(v) for v in (*low, *high))
    return resample(photo, (x1, y1, x2, y2), (max(2, round((x2 - x1) * scale)), max(2, round((y2 - y1) * scale))))


def _pasted(view: View, patch: View) -> View:
    """The photo with the patch at a random place; unchanged if no place was found."""
    height, width = view.image.shape[-2:]
    high, wide = patch.image.shape[-2:]
    if high > height or wide > width:
        return view
    objects = view.boxes_xyxy[~view.ignored]
    areas = (objects[:, 2:] - objects[:, :2]).prod(1)
    for _ in range(TRIES):
        x, y = int(uniform(0, width - wide + 1)), int(uniform(0, height - high + 1))
        low, far = torch.tensor([x, y]), torch.tensor([x + wide, y + high])
        covered = (objects[:, 2:].minimum(far) - objects[:, :2].maximum(low)).clamp(min=0).prod(1)
        if bool((covered <= MAX_COVERED * areas).all()):
            break
    else:
        return view
    image = view.image.clone()
    ground = image[:, y : y + high, x : x + wide]
    ground.copy_(ground.float().lerp_(patch.image.float(), _fading(high, wide)).round_())
    boxes = patch.boxes_xyxy + torch.tensor([x, y, x, y], dtype=torch.float32)
    return View(
        image,
        torch.cat([view.boxes_xyxy, boxes]),
        torch.cat([view.labels, patch.labels]),
        torch.cat([view.ignored, patch.ignored]),
    )


def _fading(height: int, width: int) -> Float[Tensor, "H W"]:
    """How opaque a patch is: 1 inside, falling to 0 across its margin."""
    share = MARGIN / (1 + 2 * MARGIN)
    ramps = []
    for length in (height, width):
        edge = torch.arange(length) + 0.5
        ramps.append((edge.minimum(length - edge) / max(share * length, 0.5)).clamp(max=1))
    return ramps[0][:, None].minimum(ramps[1])


def mixup(view: View, other: View) -> View:
    """Two photos on the same canvas, each half transparent, with the boxes of both."""
    weight = round(256 * uniform(*MIXUP_SHARE))
    image = (view.image.int() * weight + other.image.int() * (256 - weight) + 128) >> 8
    return View(
        image.to(torch.uint8),
        torch.cat([view.boxes_xyxy, other.boxes_xyxy]),
        torch.cat([view.labels, other.labels]),
        torch.cat([view.ignored, other.ignored]),
    )
