"""Detection in windows of a photo at its own resolution, merged on the photo.

If a window cuts an object, its box touches an inner border of the window. It yields to a box that touches none and
looks the same inside that window. Objects too large for any window are detected on the whole photo, scaled down to the
size that the network was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError, check_range
from focaldet.photos.regions import PhotoRegions
from focaldet.photos.resize import MAX_SIZE
from focaldet.photos.tiling import FILL, MIN_TILE, Window, overlap_px, windows_of
from focaldet.runtime.model import DetectionArrays, Model, NetworkInput
from focaldet.runtime.nms import ious, near_pairs, suppressed

_UNKNOWN_OVERLAP = 0.25
"""Overlap as a share of a window, if the sizes of the training objects are unknown."""

_NEAR = 1 / 64
"""A side touches the border of a window if it is nearer than this share of the window."""

_PLAIN_IOU = 0.6
"""For models without NMS, whose boxes from several windows must be merged all the same."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a photo is split into windows.

    Args:
        tile: side of a window, pixels of the photo.
        overlap: pixels that neighbouring windows share. An object up to this size, minus the margin at the borders,
            lies entirely within one of them.
        size: longer side in pixels of the network's input for the whole photo.
        nms_iou: see ``ModelCard``.
        max_detections: largest number of detections per photo; ``None``: all detections of its windows.
        offset: where the grid begins, see ``windows_of``.
    """

    tile: int
    overlap: int
    size: int
    nms_iou: float | None = _PLAIN_IOU
    max_detections: int | None = None
    offset: tuple[int, int] = (0, 0)

    @property
    def near(self) -> float:
        """Pixels from an inner border within which a side touches it."""
        return max(2.0, self.tile * _NEAR)

    def views(self, photo_size: tuple[int, int]) -> list[Window]:
        """The windows of a photo; if there are several, the whole photo comes first.

        Args:
            photo_size: (width, height).

        >>> tiling = Tiling(tile=64, overlap=16, size=64)
        >>> tiling.views((64, 40))
        [Window(left=0, top=0, width=64, height=40)]
        >>> len(tiling.views((640, 400)))
        105
        """
        windows = windows_of(photo_size, self.tile, self.overlap, offset=self.offset)
        return windows if len(windows) == 1 else [Window(0, 0, *photo_size), *windows]

    def is_whole(self, window: Window, photo_size: tuple[int, int]) -> bool:
        """Whether a view is the whole photo scaled down, not a window at its own resolution."""
        return tuple(window) == (0, 0, *photo_size) and max(photo_size) > self.tile


def tiling_for(
    tile: int | None,
    overlap: float | None,
    *,
    trained_tile: int | None,
    largest_px: int | None,
    size: int,
    nms_iou: float | None,
    max_detections: int | None = None,
) -> Tiling | None:
    """The tiling of a model for ``--tile`` and ``--overlap``; ``None``: whole photos.

    Args:
        tile: side of the windows; 0: whole photos; ``None``: windows if the model was trained on them.
        overlap: whole pixels, or a share of a window below 1; ``None``: as large as the largest training objects, at
            most half a window.
        trained_tile: side of the windows that the model was trained on.
        largest_px: longer side of the largest objects that it was trained on.
        size, nms_iou, max_detections: see ``Tiling``.

    Raises:
        InputError: a value is out of range, or an overlap was given without windows.

    >>> tiling_for(None, None, trained_tile=640, largest_px=100, size=640, nms_iou=0.6).overlap
    121
    """
    tile = trained_tile if tile is None else tile
    if not tile:
        if overlap is not None:
            raise InputError("--overlap: needs windows; give their side with --tile N")
        return None
    check_range("tile", tile, MIN_TILE, MAX_SIZE)
    check_range("max_detections", 1 if max_detections is None else max_detections, 1)
    if overlap is None:
        # In whole photos, the largest objects have another size in pixels than in windows.
        known = largest_px if trained_tile else None
        chosen = Tiling(tile=tile, overlap=0, size=size)
        wanted = _UNKNOWN_OVERLAP * tile if known is None else known + 2 * chosen.near + 1
        pixels = min(round(wanted), tile // 2)
    else:
        in_pixels = overlap >= 1 and float(overlap).is_integer()
        pixels = overlap_px(tile, int(overlap) if in_pixels else float(overlap))
    return Tiling(
        tile=tile,
        overlap=pixels,
        size=size,
        nms_iou=_PLAIN_IOU if nms_iou is None else nms_iou,
        max_detections=max_detections,
    )


def prepare_view(model: Model, photo: PhotoRegions, window: Window, tiling: Tiling) -> NetworkInput:
    """Read a window, or the whole photo scaled down, and prepare it for the network. Thread-safe.

    Raises:
        InputError: the file cannot be read any more.
    """
    if tiling.is_whole(window, photo.size):
        seen = model.prepare(photo.reduced(tiling.size))
        return replace(seen, photo_size=(photo.size[1], photo.size[0]))
    pixels = photo.read(*window)
    if pixels.shape[:2] != (tiling.tile, tiling.tile):  # as in training, so that nothing is scaled
        framed = np.full((tiling.tile, tiling.tile, 3), FILL, np.uint8)
        framed[: window.height, : window.width] = pixels
        pixels = framed
    return model.prepare(pixels)


class PhotoMerge:
    """Collects the detections from the views of a photo.

    Args:
        tiling: the views.
        photo_size: (width, height) of the photo.
    """

    def __init__(self, tiling: Tiling, photo_size: tuple[int, int]) -> None:
        self.tiling, self.photo_size = tiling, photo_size
        self._parts: dict[Window, DetectionArrays] = {}

    def add(self, window: Window, found: DetectionArrays) -> None:
        """Add the detections of a view, in its pixels."""
        left, top, width, height = window
        limits = np.array([width, height] * 2, np.float32)
        boxes = found.boxes_xyxy.clip(0, limits)
        sides = boxes[:, 2:] - boxes[:, :2]
        there = (sides > 0).all(axis=1)
        if self.tiling.is_whole(window, self.photo_size):  # an object that fits a window is seen better there
            there[there] = ~self._held(boxes[there])
        corner = np.array([left, top] * 2, np.float32)
        self._parts[window] = replace(found, boxes_xyxy=boxes + corner).at(there)

    def _held(self, boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which boxes seen on the whole photo lie in a window and touch none of its inner borders.

        Their sides are known there to a pixel of the network's input.
        """
        pixel, near = max(self.photo_size) / self.tiling.size, self.tiling.near
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        low = np.maximum(np.minimum(boxes[:, :2] + pixel, middle) - near, 0)
        high = np.minimum(np.maximum(boxes[:, 2:] - pixel, middle) + near, np.array(self.photo_size))
        held = np.zeros(len(boxes), np.bool_)
        for left, top, width, height in self.tiling.views(self.photo_size)[1:]:
            held |= (low >= (left, top)).all(axis=1) & (high <= (left + width, top + height)).all(axis=1)
        return held

    def result(self) -> DetectionArrays:
        """The detections of the photo, best first."""
        windows = sorted(self._parts)  # whatever order they came in
        found = joined([self._parts[window] for window in windows])
        window_of_box = np.repeat(np.arange(len(windows)), [len(self._parts[window]) for window in windows])
        corners = np.array([[w.left, w.top, w.left + w.width, w.top + w.height] for w in windows], np.float32)
        kept = merged(found, corners.reshape(-1, 4)[window_of_box], self.photo_size, self.tiling)
        found = found.at(kept)
        if found.raw_scores is None:
            return found
        return found.at(np.argsort(-found.scores, kind="stable"))


def merged(
    found: DetectionArrays, windows_xyxy: NDArray[np.float32], photo_size: tuple[int, int], tiling: Tiling
) -> NDArray[np.int64]:
    """Indices of the detections that remain from all views, best first by the network's own scores.

    Args:
        found: ``N`` detections in pixels of the photo.
        windows_xyxy: ``(N, 4)`` the view of each detection.
        photo_size: (width, height).
        tiling: the views.
    """
    iou = _PLAIN_IOU if tiling.nms_iou is None else tiling.nms_iou
    scores = found.scores if found.raw_scores is None else found.raw_scores
    order = np.argsort(-scores, kind="stable")
    boxes, labels, windows = found.boxes_xyxy[order], found.labels[order], windows_xyxy[order]
    cut = touches_inner(boxes, windows, photo_size, tiling.near)
    whole = np.flatnonzero(~cut)
    whole = whole[suppressed(boxes[whole], labels[whole], iou, len(whole))]
    parts = np.flatnonzero(cut)
    parts = parts[~_explained(boxes, labels, windows, parts, whole, iou)]
    ranked = np.concatenate([whole, parts])  # the usual suppression, but every whole box ranks before every part
    kept = ranked[suppressed(boxes[ranked], labels[ranked], iou, len(ranked))]
    return np.asarray(order[np.sort(kept)[: tiling.max_detections]], np.int64)


def touches_inner(
    boxes_xyxy: NDArray[np.float32], windows_xyxy: NDArray[np.float32], photo_size: tuple[int, int], near: float
) -> NDArray[np.bool_]:
    """``(N,)``: which boxes touch a border of their window that is not the photo's.

    >>> window = np.array([[0, 0, 50, 100]] * 2, np.float32)
    >>> touches_inner(np.array([[1, 1, 20, 99], [30, 1, 49, 20]], np.float32), window, (100, 100), 2)
    array([False,  True])
    """
    limits = np.array([0, 0, *photo_size], np.float32)
    touched = (np.abs(boxes_xyxy - windows_xyxy) <= near) & (windows_xyxy != limits)
    return np.asarray(touched.any(axis=1), np.bool_)


def _explained(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    windows: NDArray[np.float32],
    parts: NDArray[np.int64],
    whole: NDArray[np.int64],
    iou: float,
) -> NDArray[np.bool_]:
    """Which parts show what their window could see of a whole box, or of a larger part in another window."""
    yields = np.zeros(len(boxes), bool)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    areas[whole] = np.inf
    others = np.concatenate([whole, parts])
    longest = (boxes[others, 2:] - boxes[others, :2]).max(axis=1, initial=0)
    # By size, since the largest box of a group decides how far the search reaches.
    octaves = np.floor(np.log2(np.maximum(longest, 1e-3)))
    for octave in np.unique(octaves):
        for part, other in near_pairs(boxes, labels, parts, others[octaves == octave], inf):
            larger = (areas[other] > areas[part]) & (windows[other] != windows[part]).any(axis=1)
            part, other = part[larger], other[larger]
            visible = np.concatenate(
                [
                    np.maximum(boxes[other, :2], windows[part, :2]),
                    np.maximum(np.minimum(boxes[other, 2:], windows[part, 2:]), windows[part, :2]),
                ],
                axis=1,
            )
            yields[part[ious(boxes[part], visible) > iou]] = True
    return yields[parts]


def joined(parts: Sequence[DetectionArrays]) -> DetectionArrays:
    """Concatenate detections; a field that one of them lacks is dropped."""
    if not parts:
        return DetectionArrays(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), None)

    def all_of(name: str) -> NDArray[np.float32] | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    return DetectionArrays(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        all_of("side_std_px"),
        all_of("raw_scores"),
    )
