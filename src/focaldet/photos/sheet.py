"""A sheet of annotated photos: rows and columns with headings, ignore regions hatched, colours named below."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from focaldet.photos.draw import class_color, draw_detections, text_font

GAP, HATCH_PX = 8, 9


@dataclass(frozen=True)
class Annotated:
    """A photo with its boxes.

    Args:
        image: ``(H, W, 3)`` uint8.
        boxes_xyxy: ``(N, 4)`` pixels.
        labels: ``(N,)`` class indices.
        ignored_xyxy: ``(R, 4)`` ignore regions.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored_xyxy: NDArray[np.float32]


def draw_sheet(
    rows: Sequence[Sequence[Annotated]], headings: Sequence[str], class_names: Sequence[str], *, cell: int = 320
) -> Image.Image:
    """Draw photos in rows and columns.

    Args:
        headings: words above each column.
        class_names: a name for each class.
        cell: longer side of a photo on the sheet, pixels; a larger photo is not scaled down.

    >>> photo = Annotated(np.zeros((24, 32, 3), np.uint8), np.array([[2, 2, 9, 9]], np.float32), np.array([0]),
    ...                   np.zeros((0, 4), np.float32))
    >>> draw_sheet([[photo, photo]], ["one", "two"], ["cell"], cell=64).size[0]
    152
    """
    pictures = [[_drawn(photo, class_names, cell) for photo in row] for row in rows]
    widths = [max(row[column].width for row in pictures) for column in range(len(headings))]
    heights = [max(picture.height for picture in row) for row in pictures]
    font = text_font(16)
    line = round(1.8 * font.size)
    legend = _legend(rows, class_names, sum(widths) + GAP * (len(widths) + 1), line)
    height = line + sum(heights) + GAP * len(heights) + legend.height
    page = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), height), "white")
    pen = ImageDraw.Draw(page)
    left = GAP
    for column, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        pen.text((left, line / 2), heading, fill="#202020", font=font, anchor="lm")
        top = line
        for row, row_height in zip(pictures, heights, strict=True):
            page.paste(row[column], (left, top))
            top += row_height + GAP
        left += width + GAP
    page.paste(legend, (0, height - legend.height))
    return page


def _drawn(photo: Annotated, class_names: Sequence[str], cell: int) -> Image.Image:
    scale = max(1, round(cell / max(photo.image.shape)))
    picture = draw_detections(photo.image, photo.boxes_xyxy, photo.labels, None, class_names, scale=scale, legend=False)
    pen = ImageDraw.Draw(picture)
    for box in photo.ignored_xyxy * scale:
        x1, y1, x2, y2 = (float(v) for v in box)
        pen.rectangle((x1, y1, x2, y2), outline="white", width=1)
        for start in np.arange(x1 + y1 + HATCH_PX, x2 + y2, HATCH_PX):  # along x + y = start, inside the box
            ends = (max(x1, start - y2), min(y2, start - x1), min(x2, start - y1), max(y1, start - x2))
            pen.line(ends, fill="white", width=1)
    return picture


def _legend(rows: Sequence[Sequence[Annotated]], class_names: Sequence[str], width: int, line: int) -> Image.Image:
    photos = [photo for row in rows for photo in row]
    present = sorted({int(label) for photo in photos for label in photo.labels})
    entries = [(class_color(label), class_names[label]) for label in present]
    if any(len(photo.ignored_xyxy) for photo in photos):
        entries.append(("", "hatched: neither object nor background"))
    font = text_font(16)
    spots: list[tuple[int, int]] = []
    x, row = GAP, 0
    for color, words in entries:
        length = round(font.getlength(words)) + (24 if color else 0) + 3 * GAP
        if x > GAP and x + length > width:
            x, row = GAP, row + 1
        spots.append((x, row))
        x += length
    page = Image.new("RGB", (width, (row + 1) * line), "white")
    pen = ImageDraw.Draw(page)
    for (color, words), (x, row) in zip(entries, spots, strict=True):
        middle = (row + 0.5) * line
        if color:
            pen.rectangle((x, middle - 8, x + 16, middle + 8), fill=color)
        pen.text((x + (24 if color else 0), middle), words, fill="#202020", font=font, anchor="lm")
    return page
