"""The photos of a page: choose them, embed them as JPEG, and describe the boxes drawn over them."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError
from focaldet.evaluation.matching import IN_CROWD, MATCH_IOU, UNMATCHED, Floats, ImageResult
from focaldet.photos.draw import class_color, side_bands
from focaldet.photos.images import read_header, read_photo
from focaldet.photos.limits import MAX_PIXELS, MAX_REGION_PIXELS
from focaldet.photos.regions import PhotoRegions, open_regions
from focaldet.records.run_files import Run, mapping

NUM_PHOTOS = 12
_LONG_SIDE_PX = 720
_CUTOUT_PX = 320
_MAX_BOXES = 300  # drawn on one photo; the caption also counts the others, which have lower scores
_MANY_CLASSES = 7  # with more colours than this, boxes are labelled with their class
_SIDES = ("left", "top", "right", "bottom")

Window = tuple[int, int, int, int]
"""Part of a photo: x, y, width and height in whole pixels."""


class Framed(Protocol):
    """An object with the size of a photo, in pixels of its boxes."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@dataclass(frozen=True)
class Box:
    """One box as the template draws it, in pixels of the photo: a state for the style sheet, a text for people."""

    x: float
    y: float
    width: float
    height: float
    class_index: int
    label: str
    state: str  # found, false, ignored | truth, missed
    words: str
    bands: str = ""
    sides: str = ""  # its four distributions, for the hover: see ``encode_sides``

    @property
    def color(self) -> str:
        return class_color(self.class_index)

    @property
    def area(self) -> float:
        """Area in square pixels. The template draws large boxes first, so that small ones inside can be pointed at."""
        return self.width * self.height


@dataclass(frozen=True)
class Panel:
    """One drawing of a photo: the ground truth, or the predictions of one run."""

    title: str
    words: str
    boxes: list[Box]


@dataclass(frozen=True)
class Photo:
    """A photo of the gallery, or a cut-out of one, with its panels.

    Args:
        width, height: in pixels of the photo, like the boxes.
        data: a JPEG data URI; empty if the file cannot be read.
        x, y: top left corner of a cut-out in the photo.
    """

    key: str
    name: str
    width: int
    height: int
    data: str
    panels: list[Panel]
    x: int = 0
    y: int = 0


def choose(results: Sequence[ImageResult], threshold: float) -> dict[str, list[ImageResult]]:
    """Heading -> photos: the four worst, four typical and the four best by F1; or all, if there are few.

    Images without objects and without boxes are perfect and show nothing, so they are left out. Ties are broken by the
    number of missed objects for the worst, and by the number of objects for the best.
    """
    shown = [r for r in results if len(r.gt_labels) or r.counts(threshold)[1]]
    ranked = sorted(
        shown, key=lambda r: (r.f1(threshold), -r.counts(threshold)[2] if r.f1(threshold) < 1 else len(r.gt_labels))
    )
    if len(ranked) <= NUM_PHOTOS:
        return {"All photos, worst first": ranked} if ranked else {}
    each = NUM_PHOTOS // 3
    middle = (len(ranked) - each) // 2
    return {"Worst": ranked[:each], "Typical": ranked[middle : middle + each], "Best": ranked[: -each - 1 : -1]}


def truth_panel(
    result: ImageResult, names: Sequence[str], missed: set[int] | None, taken_for: Mapping[int, str] = {}
) -> Panel:
    """The labelled boxes.

    Args:
        missed: objects to mark as missed; None if several runs are compared.
        taken_for: object -> the class that was predicted instead, for misclassified objects.
    """
    boxes = []
    for g in range(len(result.gt_labels)):
        if missed is not None and g in missed:
            boxes.append(truth_box(result, g, names, f"predicted as {taken_for[g]}" if g in taken_for else "missed"))
        else:
            boxes.append(truth_box(result, g, names))
    return Panel("Ground truth", f"{len(boxes)} object{'s' * (len(boxes) != 1)}", boxes)


def truth_box(result: ImageResult, g: int, names: Sequence[str], wrong: str = "") -> Box:
    """Label of object g; ``wrong`` is the error, if there is one."""
    words = f"{_name(names, result.gt_labels[g])}, labelled" + (f"; {wrong}" if wrong else "")
    return make_box(result.gt_xyxy[g], int(result.gt_labels[g]), names, "missed" if wrong else "truth", words)


def prediction_panel(title: str, result: ImageResult, names: Sequence[str], threshold: float) -> Panel:
    """The boxes with a score of at least ``threshold``, each with score, IoU and standard deviations as text."""
    shown = np.flatnonzero(result.scores >= threshold)[:_MAX_BOXES]
    found, false, missed = result.counts(threshold)
    boxes = [prediction_box(result, int(i), names) for i in shown]
    return Panel(title, f"{found} detected, {missed} missed, {false} false positive{'s' * (false != 1)}", boxes)


def prediction_box(result: ImageResult, i: int, names: Sequence[str]) -> Box:
    """Predicted box i."""
    match = result.matched_gt[i]
    if match == UNMATCHED:
        state, verdict = "false", f"false positive: {fault(result, i, names)}"
    elif match == IN_CROWD:
        state, verdict = "ignored", "inside a crowd region, not counted"
    else:
        state, verdict = "found", f"IoU {result.iou[i]:.2f} with the ground truth"
    words, bands = f"{_name(names, result.labels[i])}, score {result.scores[i]:.2f}; {verdict}", ""
    std = result.side_std_px[i]
    if np.isfinite(std).all():
        words += "; standard deviations: " + ", ".join(f"{s} {v:.1f}" for s, v in zip(_SIDES, std, strict=True)) + " px"
        bands = "".join(
            f"M{a:.1f} {b:.1f}H{c:.1f}V{d:.1f}H{a:.1f}Z" for a, b, c, d in side_bands(result.boxes_xyxy[i], std)
        )
    return make_box(result.boxes_xyxy[i], int(result.labels[i]), names, state, words, bands)


def fault(result: ImageResult, i: int, names: Sequence[str]) -> str:
    """Why predicted box i is a false positive."""
    if (g := result.confused_with[i]) != UNMATCHED:
        return f"this object is labelled {_name(names, result.gt_labels[g])}"
    iou = result.iou[i]
    if iou >= MATCH_IOU:
        return f"a duplicate, another box matches the object (IoU {iou:.2f})"
    name = _name(names, result.labels[i])
    if 0 < iou < 0.005:
        return f"barely touches a labelled {name}"
    return f"highest IoU with a labelled {name} is {iou:.2f}" if iou else f"touches no labelled {name}"


def encode_sides(distributions: Sequence[Sequence[float]]) -> str:
    """Encode distributions for the script of the page: in thousandths, one side after another.

    >>> encode_sides([[0.25, 0.75], [1.0, 0.0]])
    '250 750,1000 0'
    """
    return ",".join(" ".join(f"{1000 * p:.0f}" for p in side) for side in distributions)


def window_around(result: Framed, boxes_xyxy: Floats, surroundings: float, least_px: int) -> Window:
    """A square around some boxes, shifted and shrunk as needed to fit into the photo.

    Args:
        boxes_xyxy: ``(N, 4)``, at least one box.
        surroundings: side of the square, relative to the longer side of the area that the boxes cover.
        least_px: lower bound of the side, in pixels.
    """
    low, high = boxes_xyxy[:, :2].min(axis=0), boxes_xyxy[:, 2:].max(axis=0)
    side = max(surroundings * float((high - low).max()), least_px)
    photo = np.array([result.width, result.height])
    size = np.clip(round(side), 1, photo)
    x, y = np.clip((low + high - size) // 2, 0, photo - size).astype(int).tolist()
    return x, y, int(size[0]), int(size[1])


def gallery_context(groups: list[tuple[str, list[Photo]]]) -> dict[str, Any]:
    """The photos, the colours in them, and whether any box has soft edges for the key to explain."""
    boxes = [box for _, photos in groups for photo in photos for panel in photo.panels for box in panel.boxes]
    colors = sorted({(box.class_index, box.label, box.color) for box in boxes})
    soft = any(box.bands for box in boxes)
    return {"groups": groups, "colors": colors, "written": len(colors) > _MANY_CLASSES, "soft": soft}


def missed_objects(result: ImageResult, threshold: float) -> set[int]:
    """Indices of the objects that no box with at least this score matches."""
    return set(range(len(result.gt_labels))) - set(result.matched_gt[result.scores >= threshold].tolist())


def photo(key: str, run: Run, result: ImageResult, panels: list[Panel]) -> Photo:
    data = embed_jpeg(photo_path(run, result))
    return Photo(key, Path(result.file_name).name, result.width, result.height, data, panels)


def photo_path(run: Run, result: ImageResult) -> Path:
    """Path of the photo, according to the ground truth of the run."""
    root = mapping(run.truth.get("info")).get("root")
    return Path(root if isinstance(root, str) else run.path) / result.file_name


def embed_jpeg(path: Path) -> str:
    """The photo as a JPEG data URI of at most 720 px, or an empty string if it cannot be read."""
    try:
        return _data_uri(Image.fromarray(_reduced(path)), _LONG_SIDE_PX)
    except InputError:
        return ""


def embed_cutouts(path: Path, result: Framed, windows: Sequence[Window]) -> list[str]:
    """Parts of a photo as JPEG data URIs of at most 320 px, cut from the photo at full resolution."""
    try:
        with open_regions(path) as photo:
            scale = (photo.size[0] / result.width, photo.size[1] / result.height)  # not 1 for labels of a resized copy
            return [_data_uri(_part(photo, *_scaled(window, *scale)), _CUTOUT_PX) for window in windows]
    except InputError:
        return [""] * len(windows)


def _scaled(window: Window, across: float, down: float) -> tuple[int, int, int, int]:
    """The corners of a window in a copy of the photo with another size; at least one pixel remains."""
    x, y, width, height = window
    left, top = int(x * across), int(y * down)
    return left, top, left + max(round(width * across), 1), top + max(round(height * down), 1)


def _part(photo: PhotoRegions, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """A part of a photo by its corners, clipped to the photo."""
    left, top = min(max(left, 0), photo.size[0] - 1), min(max(top, 0), photo.size[1] - 1)
    width, height = max(1, min(right, photo.size[0]) - left), max(1, min(bottom, photo.size[1]) - top)
    return Image.fromarray(photo.read(left, top, width, height))


def _reduced(path: Path) -> NDArray[np.uint8]:
    """A photo, decoded no larger than needed."""
    header = read_header(path, most=MAX_REGION_PIXELS)
    if header.width * header.height <= MAX_PIXELS:
        return read_photo(path, max_side=_LONG_SIDE_PX)
    with open_regions(path) as photo:
        return photo.reduced(_LONG_SIDE_PX)


def _data_uri(image: Image.Image, long_side_px: int) -> str:
    image.thumbnail((long_side_px, long_side_px))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"


def make_box(corners: Floats, label: int, names: Sequence[str], state: str, words: str, bands: str = "") -> Box:
    """Make a box from its corners ``(x1, y1, x2, y2)``, rounded to visible precision."""
    x1, y1, x2, y2 = (round(float(v), 1) for v in corners)
    size = (round(max(x2 - x1, 0), 1), round(max(y2 - y1, 0), 1))
    return Box(x1, y1, *size, label, _name(names, label), state, words, bands)
