"""An annotation compared with its image: what remains is usable, the rest is named."""

from os.path import isfile  # unlike Path.is_file, False for a name that the system cannot even look up
from typing import cast

import numpy as np

from focaldet.checks import InputError
from focaldet.data.records import Annotation, Fault, ImageRecord
from focaldet.photos.images import SUFFIX_FORMATS, ImageHeader, read_header, upright_boxes

_TOLERANCE_PX = 1.0
"""A box may leave the image by so much, through rounding, before that is a fault."""


def validate(annotation: Annotation) -> tuple[ImageRecord | None, list[Fault]]:
    """The record of an image (``None`` when it cannot be used) and all its faults; reads the image's header."""
    try:
        header = read_header(annotation.path)
    except InputError as error:
        kind = "unreadable-image" if isfile(annotation.path) else "missing-image"
        # The path is in the fault already; keep only what the error says after it.
        return None, [Fault(kind, annotation.source, annotation.file_name, str(error).split(": ", 1)[1])]
    faults = _image_faults(annotation, header)
    boxes = annotation.boxes_xyxy.copy()
    width, height = header.width, header.height
    if annotation.relative:
        boxes *= np.array([width, height, width, height])
    elif annotation.stated_size == header.stored_size != (width, height):
        # Whoever drew these boxes saw the pixels as stored: they turn with the image.
        boxes = upright_boxes(boxes, header.stored_size, header.orientation)
    clipped = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    keep = np.ones(len(boxes), bool)
    for i in _suspects(boxes, clipped, annotation.labels):
        fault = _box_fault(annotation, i, boxes[i], clipped[i], width, height)
        faults.append(fault)
        keep[i] = not fault.loses_box
    record = ImageRecord(
        path=annotation.path,
        file_name=annotation.file_name,
        image_id=annotation.image_id,
        width=width,
        height=height,
        boxes_xyxy=clipped[keep],
        labels=annotation.labels[keep],
        ignored=annotation.ignored[keep],
        areas=_areas(annotation, clipped)[keep],
    )
    return record, faults


def _areas(annotation: Annotation, boxes: np.ndarray) -> np.ndarray:
    own = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(1)
    stated = own if annotation.areas is None else annotation.areas
    return np.where(np.isfinite(stated) & (stated > 0), stated, own)


def _image_faults(annotation: Annotation, header: ImageHeader) -> list[Fault]:
    faults = []
    promised = SUFFIX_FORMATS.get(annotation.path.suffix.lower())
    if promised and header.format not in promised:
        problem = f"the name says {promised[0]}, the file is {header.format}"
        faults.append(Fault("mislabelled-image", annotation.source, annotation.file_name, problem))
    stated, displayed = annotation.stated_size, (header.width, header.height)
    if stated is not None and stated not in (displayed, header.stored_size):
        problem = f"the annotation says {stated[0]} x {stated[1]}, the image has {displayed[0]} x {displayed[1]} pixels"
        faults.append(Fault("size-differs", annotation.source, annotation.file_name, problem))
    settled = annotation.relative or (stated is not None and header.stored_size != displayed)
    if header.orientation != 1 and len(annotation.boxes_xyxy) and not settled:
        problem = f"EXIF orientation {header.orientation}, and no size that tells whether boxes were drawn before it"
        faults.append(Fault("exif-orientation", annotation.source, annotation.file_name, problem))
    return faults


def _suspects(boxes: np.ndarray, clipped: np.ndarray, labels: np.ndarray) -> list[int]:
    """Indices of the boxes that have a fault: nearly always none, so nothing is done box by box before this."""
    moved = np.abs(boxes - clipped).max(1, initial=0)
    suspect = ~(moved <= _TOLERANCE_PX) | (clipped[:, 2:] <= clipped[:, :2]).any(1)  # NaN compares false
    first: dict[tuple[float, ...], int] = {}
    for i, key in enumerate(zip(*boxes.T.tolist(), labels.tolist(), strict=True)):
        suspect[i] |= first.setdefault(key, i) != i
    return np.flatnonzero(suspect).tolist()


def _box_fault(annotation: Annotation, i: int, box: np.ndarray, clipped: np.ndarray, width: int, height: int) -> Fault:
    def fault(kind: str, problem: str) -> Fault:
        return Fault(kind, annotation.source, annotation.items[i], problem)

    if not np.isfinite(box).all():
        return fault("not-a-number", f"coordinates {_numbers(box)}")
    x1, y1, x2, y2 = cast(list[float], box.tolist())
    if x2 <= x1 or y2 <= y1:
        return fault("zero-area", f"width {x2 - x1:g} and height {y2 - y1:g} pixels")
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return fault("outside", f"{_numbers(box)} lies outside the image of {width} x {height}")
    if min(x1, y1, width - x2, height - y2) < -_TOLERANCE_PX:
        return fault("partly-outside", f"{_numbers(box)} leaves the image of {width} x {height}")
    return fault("duplicate-box", "the same box and class twice")


def _numbers(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{v:g}" for v in box.tolist()) + "]"
