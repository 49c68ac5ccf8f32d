"""Boxes on a photo, each side with its error bar.

A side that the detector is certain of is a thin line. An uncertain side has a wide translucent band: plus and minus one
standard deviation of its predicted distribution.

Small photos are enlarged first. A label is written only if it fits in the frame and hides neither another label nor an
object. The strip below the photo lists the colours, so that a box without a label is still clear.
"""

import colorsys
import contextlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours ("Color Universal Design", 2008), without their black; the order puts the most distinct first.
_BASE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_LONG_SIDE_PX = 1000  # a photo is enlarged by a whole factor to about this size
_MAX_SCALE = 4
_DENSE = 40  # beyond this many boxes, lines are thinner and labels show only the score
_MAX_LABELS = 1000  # no picture has room for more, and the search time is quadratic in the number of boxes
_MAX_COVERED = 0.15  # a label may cover this share of any object

Picture = Image.Image | NDArray[np.uint8]
Rectangle = tuple[float, float, float, float]


def class_color(index: int) -> str:
    """The colour of a class as ``#RRGGBB``, given its index.

    Colour-blind people can distinguish the first seven. No set of eighty has this property: later colours differ only
    in hue and lightness.

    >>> class_color(0), class_color(1)
    ('#0072B2', '#D55E00')
    >>> len({class_color(i) for i in range(80)})
    80
    """
    if index < len(_BASE_COLORS):
        return _BASE_COLORS[index]
    lightness = (0.35, 0.55, 0.75)[index % 3]
    rgb = colorsys.hls_to_rgb(
        index * 0.618034 % 1.0, lightness, 0.75
    )  # steps of the golden ratio: never near the previous colour
    return "#" + "".join(f"{round(255 * c):02X}" for c in rgb)


def side_bands(box_xyxy: Sequence[float], std_px: Sequence[float]) -> list[Rectangle]:
    """The four rectangles of a box's error bars: left, top, right and bottom, each side plus and minus its deviation.

    >>> side_bands((10, 20, 50, 60), (1, 2, 3, 4))
    [(9, 20, 11, 60), (10, 18, 50, 22), (47, 20, 53, 60), (10, 56, 50, 64)]
    """
    x1, y1, x2, y2 = box_xyxy
    left, top, right, bottom = std_px
    return [
        (x1 - left, y1, x1 + left, y2),
        (x1, y1 - top, x2, y1 + top),
        (x2 - right, y1, x2 + right, y2),
        (x1, y2 - bottom, x2, y2 + bottom),
    ]


def draw_detections(
    image: Picture,
    boxes_xyxy: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike | None,
    class_names: Sequence[str],
    side_std_px: ArrayLike | None = None,
    *,
    scale: int | None = None,
    legend: bool = True,
    band: str = "band: side ± 1 standard deviation",
) -> Image.Image:
    """Draw detected boxes: lines in the colour of the class, error bars, labels, and a legend of the colours below.

    Args:
        image: the photo, or a ``(H, W, 3)`` uint8 array (RGB).
        boxes_xyxy: ``(N, 4)`` pixels of the photo.
        labels: ``(N,)`` class indices in ``[0, len(class_names))``.
        scores: ``(N,)`` in ``[0, 1]``, or ``None`` to leave them out.
        class_names: a name for each class.
        side_std_px: ``(N, 4)`` standard deviations of the left, top, right and bottom sides, in pixels of the photo,
            or ``None``: boxes without error bars.
        scale: enlarge by this whole number; by default a photo under 1000 px is enlarged up to four times.
        legend: add the strip of colours below; its height depends on the number of classes.
        band: meaning of the error bars, written in the strip.

    Returns:
        A new RGB picture, the photo's size times ``scale``, and the strip.

    Raises:
        ValueError: mismatched shapes, an unknown class, or a number that is not finite.

    >>> picture = draw_detections(Image.new("RGB", (320, 240)), [[2, 2, 9, 8]], [0], [0.9], ["cell"], [[1, 2, 1, 6]])
    >>> picture.width, picture.height > 3 * 240
    (960, True)
    """
    canvas = _Canvas(image, boxes_xyxy, labels, scores, class_names, side_std_px, scale)
    canvas.draw_error_bars()
    canvas.draw_boxes()
    canvas.draw_labels()
    if not legend:
        return canvas.picture
    return canvas.with_legend("" if side_std_px is None else band)


def draw_truth(
    image: Picture, boxes_xyxy: ArrayLike, labels: ArrayLike, class_names: Sequence[str], *, scale: int | None = None
) -> Image.Image:
    """Draw labelled boxes, dashed so that nobody takes them for detections. Arguments as in ``draw_detections``."""
    canvas = _Canvas(image, boxes_xyxy, labels, None, class_names, None, scale)
    canvas.draw_dashed_boxes()
    return canvas.with_legend("dashed: truth")


class _Canvas:
    """The enlarged photo, and boxes in its pixels, best first."""

    def __init__(
        self,
        image: Picture,
        boxes_xyxy: ArrayLike,
        labels: ArrayLike,
        scores: ArrayLike | None,
        class_names: Sequence[str],
        side_std_px: ArrayLike | None,
        scale: int | None,
    ) -> None:
        photo = (image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))).convert(
            "RGB"
        )
        scale = scale or min(max(round(_LONG_SIDE_PX / max(photo.size)), 1), _MAX_SCALE)
        size = (photo.width * scale, photo.height * scale)
        self.picture = photo if scale == 1 else photo.resize(size, Image.Resampling.BICUBIC)
        self.labels = np.asarray(labels, np.int64).reshape(-1)
        count = len(self.labels)
        boxes = _checked("boxes_xyxy", boxes_xyxy, (count, 4)) * scale
        # Parts far outside are invisible, and huge numbers are slow to draw.
        self.boxes = np.clip(boxes, -size[0] - size[1], 2 * (size[0] + size[1]))
        self.scores = None if scores is None else _checked("scores", scores, (count,))
        self.std = None if side_std_px is None else _checked("side_std_px", side_std_px, (count, 4)) * scale
        if self.std is not None:
            self.std = np.clip(self.std, 0, size[0] + size[1])
        if count and not (self.labels.min() >= 0 and self.labels.max() < len(class_names)):
            raise ValueError(f"labels: expected classes in [0, {len(class_names)}), got {self.labels.tolist()}")
        self.names = class_names
        self.dense = count > _DENSE
        self.thickness = max(2, round(max(size) / (600 if self.dense else 400)))
        if count:  # thinner where boxes are small, as on a large photo that is scaled down
            typical = float(np.median((self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1)))
            self.thickness = max(1, min(self.thickness, round(typical / 12)))
        self.order = np.arange(count) if self.scores is None else np.argsort(-self.scores, kind="stable")

    def _overlay(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        overlay = Image.new("RGBA", self.picture.size, (0, 0, 0, 0))
        return overlay, ImageDraw.Draw(overlay)

    def _merge(self, overlay: Image.Image) -> None:
        self.picture = Image.alpha_composite(self.picture.convert("RGBA"), overlay).convert("RGB")

    def draw_error_bars(self) -> None:
        if self.std is None:
            return
        overlay, pen = self._overlay()
        for i in self.order[::-1]:
            for band in side_bands(self.boxes[i], self.std[i]):
                x1, y1, x2, y2 = band
                pen.rectangle(
                    (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), fill=class_color(self.labels[i]) + "70"
                )
        self._merge(overlay)

    def draw_boxes(self) -> None:
        overlay, pen = self._overlay()
        for i in self.order[::-1]:  # a dark rim keeps every colour visible on every background
            pen.rectangle(_grown(self.boxes[i], self.thickness / 2 + 1), outline="#00000090", width=self.thickness + 2)
        self._merge(overlay)
        pen = ImageDraw.Draw(self.picture)
        for i in self.order[::-1]:
            box = _grown(self.boxes[i], self.thickness / 2)
            pen.rectangle(box, outline=class_color(self.labels[i]), width=self.thickness)

    def draw_dashed_boxes(self) -> None:
        pen = ImageDraw.Draw(self.picture)
        dash = 5 * self.thickness
        for box, label in zip(self.boxes, self.labels, strict=True):
            pen.rectangle(_grown(box, self.thickness), outline="white", width=2 * self.thickness)
            for line in _dashes(box, dash):
                pen.line(line, fill=class_color(int(label)), width=self.thickness)

    def draw_labels(self) -> None:
        if self.scores is None:
            return
        font = text_font(max(12, round(max(self.picture.size) / (90 if self.dense else 70))))
        pen, placed, pad = ImageDraw.Draw(self.picture), np.zeros((0, 4)), 3
        for i in self.order[:_MAX_LABELS]:
            name = "" if self.dense else _shortened(self.names[self.labels[i]]) + " "
            text = f"{name}{self.scores[i]:.2f}"
            left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
            size = (right - left + 2 * pad, bottom - top + 2 * pad)
            spot = self._free_spot(i, size, placed)
            if spot is None:
                continue
            placed = np.vstack([placed, spot])
            color = class_color(self.labels[i])
            pen.rectangle(tuple(spot), fill=color)
            pen.text((spot[0] + pad - left, spot[1] + pad - top), text, fill=_ink(color), font=font)

    def _free_spot(self, i: int, size: tuple[float, float], placed: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """The first position at box i where a label of this size hides nothing, or None."""
        (x1, y1, x2, y2), (width, height), gap = self.boxes[i], size, self.thickness
        places = [(x1, y1 - height - gap), (x1, y2 + gap), (x2 - width, y1 - height - gap), (x2 - width, y2 + gap)]
        places += [(x1 + gap, y1 + gap), (x1 + gap, y2 - height - gap)]
        areas = np.maximum(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1), 1.0)
        for x, y in places:
            spot = np.array([x, y, x + width, y + height])
            inside = x >= 0 and y >= 0 and x + width <= self.picture.width and y + height <= self.picture.height
            free = not _overlap(placed, spot).any() and (_overlap(self.boxes, spot) <= _MAX_COVERED * areas).all()
            if inside and free:
                return spot
        return None

    def with_legend(self, note: str) -> Image.Image:
        """The picture with a strip below it: each colour with its class and count, and how to read the lines."""
        font = text_font(max(16, round(max(self.picture.size) / 60)))
        counts = sorted(Counter(self.labels.tolist()).items())
        entries = [(class_color(k), f"{_shortened(self.names[k])} × {n}") for k, n in counts] or [("", "no boxes")]
        entries += [("", note)] if note else []
        swatch = font.size
        widths = [font.getlength(text) + (1.5 * swatch if color else 0) for color, text in entries]
        spots, x, row = [], float(swatch), 0
        for width in widths:
            if x > swatch and x + width + swatch > self.picture.width:
                x, row = float(swatch), row + 1
            spots.append((x, row))
            x += width + 1.5 * swatch
        line = 1.8 * swatch
        strip_height = round((row + 1) * line)
        page = Image.new("RGB", (self.picture.width, self.picture.height + strip_height), "white")
        page.paste(self.picture)
        pen = ImageDraw.Draw(page)
        for (color, text), (x, row) in zip(entries, spots, strict=True):
            middle = self.picture.height + (row + 0.5) * line
            if color:
                pen.rectangle((x, middle - swatch / 2, x + swatch, middle + swatch / 2), fill=color)
                x += 1.5 * swatch
            pen.text((x, middle), text, fill="#202020", font=font, anchor="lm")
        return page


def _checked(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    array = array.reshape(shape) if array.size == 0 == np.prod(shape) else array
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def _overlap(boxes: NDArray[np.float64], spot: NDArray[np.float64]) -> NDArray[np.float64]:
    """The area that each of ``(N, 4)`` boxes shares with one rectangle: ``(N,)``."""
    sides = np.minimum(boxes[:, 2:], spot[2:]) - np.maximum(boxes[:, :2], spot[:2])
    areas: NDArray[np.float64] = np.prod(np.maximum(sides, 0.0), axis=1)
    return areas


def _grown(box: NDArray[np.float64], by: float) -> Rectangle:
    x1, y1, x2, y2 = box
    return (min(x1, x2) - by, min(y1, y2) - by, max(x1, x2) + by, max(y1, y2) + by)


def _dashes(box: NDArray[np.float64], dash: float) -> list[Rectangle]:
    """Every second piece of length ``dash`` of the four sides."""
    x1, y1, x2, y2 = box
    across = [(a, y, min(a + dash, x2), y) for y in (y1, y2) for a in np.arange(x1, x2, 2 * dash)]
    down = [(x, a, x, min(a + dash, y2)) for x in (x1, x2) for a in np.arange(y1, y2, 2 * dash)]
    return across + down


def _shortened(name: str, limit: int = 24) -> str:
    """A name on one line and not longer than ``limit``."""
    name = " ".join(str(name).split())
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _ink(color: str) -> str:
    """Black or white, whichever reads better on this colour (WCAG 2 relative luminance)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.18 else "white"


@cache
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, since class names need not be English: it comes with matplotlib, and many systems have it."""
    places = ["DejaVuSans.ttf"]  # searched in the system's folders
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        places.insert(0, str(Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"))
    for place in places:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(place, size)
    return ImageFont.load_default(size)  # type: ignore[return-value]  # Pillow's own, of Latin letters
