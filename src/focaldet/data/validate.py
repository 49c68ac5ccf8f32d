"""Compare annotations with their images: keep what is usable, report the rest."""

from collections.abc import Sequence
from itertools import starmap
from os.path import isfile  # unlike Path.is_file, it returns False for a name that the system rejects
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from focaldet.checks import InputError
from focaldet.data.forms import check_forms
from focaldet.data.parallel import each
from focaldet.data.records import Annotation, Fault, ImageRecord
from focaldet.photos.images import SUFFIX_FORMATS, ImageHeader, no_size_warnings, read_header
from focaldet.photos.limits import MAX_REGION_PIXELS
from focaldet.photos.orientation import upright_boxes
from focaldet.system.progress import Progress

_TOLERANCE_PX = 1.0
"""A box may leave the image by this much through rounding; more is a fault."""


_ENOUGH_BOXES = 10
"""If at least this many boxes all lie within their images, they do not belong to a larger copy."""


class Checked(NamedTuple):
    """An annotation that has been compared with its image.

    Args:
        record: the image; ``None`` if it cannot be used.
        faults: all faults.
        turned: whether EXIF rotates the image, and nothing shows that its boxes were drawn on the rotated image: they
            are fractions, or the stated size is the same after the rotation.
        scale: ratio of the stated size to the image's, if both sides have the same ratio and there are boxes; else 0.
        outside_stated: number of boxes that exceed the stated image size.
        outside: number of boxes that exceed the image.
    """

    record: ImageRecord | None
    faults: list[Fault]
    turned: bool = False
    scale: float = 0.0
    outside_stated: int = 0
    outside: int = 0


def validate_all(
    annotations: Sequence[Annotation],
    *,
    rescale: bool = False,
    progress: Progress | None = None,
) -> tuple[list[ImageRecord | None], list[Fault], list[str]]:
    """The record of each image (``None`` if it cannot be used), all faults, and notes.

    Args:
        rescale: scale boxes if another size is stated.
        progress: called with the number of finished images and the total.

    Raises:
        InputError: the boxes have another form than they were read in.
    """
    with no_size_warnings():
        headers = each(_header, [annotation.path for annotation in annotations], progress)
    check_forms(annotations, headers)
    pairs = list(zip(annotations, headers, strict=True))
    turned_first = any(starmap(_drawn_upright, pairs))
    checked = [_compared(*pair, rescale=rescale, turned_first=turned_first) for pair in pairs]
    drawn_on_copies = set() if rescale else _scales_of_copies(checked)
    records: list[ImageRecord | None] = []
    faults: list[Fault] = []
    for annotation, found in zip(annotations, checked, strict=True):
        copy = round(found.scale, 2) in drawn_on_copies
        records.append(None if copy else found.record)
        faults += [_scaled(annotation, found.scale)] if copy else found.faults
    turned = sum(found.turned for found in checked)
    note = f"EXIF rotates {turned:,} photos, but their labels do not say so: boxes are read for the displayed photos"
    return records, faults, [note] * (turned > 0)


def _scales_of_copies(checked: Sequence[Checked]) -> set[float]:
    """The scales of copies to which boxes seem to belong, instead of to the image itself."""
    of_scale: dict[float, list[Checked]] = {}
    for found in checked:
        if found.scale:
            of_scale.setdefault(round(found.scale, 2), []).append(found)
    copies = set()
    for scale, group in of_scale.items():
        boxes = sum(len(found.record.labels) for found in group if found.record)
        of_image = any(found.outside_stated for found in group) if scale < 1 else boxes >= _ENOUGH_BOXES
        if any(found.outside for found in group) or not of_image:
            copies.add(scale)
    return copies


def _scaled(annotation: Annotation, scale: float) -> Fault:
    assert annotation.stated_size is not None
    width, height = annotation.stated_size
    problem = (
        f"the annotation says {width} x {height}, {scale:.4g} times the image's size: its boxes seem to be of such a "
        f"copy; multiply them by {1 / scale:.4g}, which focaldet data convert --rescale does"
    )
    return Fault("scaled-size", annotation.source, annotation.file_name, problem)


def validate(annotation: Annotation) -> Checked:
    """Compare an annotation with the header of its image."""
    return _compared(annotation, _header(annotation.path))


def _header(path: Path) -> ImageHeader | str:
    """The header of an image, or its fault."""
    try:
        return read_header(path, most=MAX_REGION_PIXELS)
    except InputError as error:
        return str(error).split(": ", 1)[1]  # the report already names the file


def _drawn_upright(annotation: Annotation, header: ImageHeader | str) -> bool:
    """Whether boxes fit only the displayed image, although the stated size matches the stored pixels."""
    if isinstance(header, str) or annotation.relative or annotation.stated_size != header.stored_size:
        return False
    displayed, boxes = (header.width, header.height), annotation.boxes_xyxy
    outside = _leaving(boxes, *header.stored_size)
    return displayed != header.stored_size and outside > 0 and not _leaving(boxes, *displayed)


def _compared(
    annotation: Annotation, header: ImageHeader | str, *, rescale: bool = False, turned_first: bool = False
) -> Checked:
    """
    Args:
        rescale: scale boxes if another size is stated.
        turned_first: the boxes were drawn on the displayed image, even if another size is stated.
    """
    if isinstance(header, str):
        kind = "unreadable-image" if isfile(annotation.path) else "missing-image"
        return Checked(None, [Fault(kind, annotation.source, annotation.file_name, header)])
    faults = _image_faults(annotation, header)
    boxes = annotation.boxes_xyxy.copy()
    areas = annotation.areas
    width, height = header.width, header.height
    scale, outside_stated, outside = 0.0, 0, 0
    if annotation.relative:
        boxes *= np.array([width, height, width, height])
    elif annotation.stated_size == header.stored_size != (width, height) and not turned_first:
        # These boxes were drawn on the stored pixels: rotate them with the image.
        boxes = upright_boxes(boxes, header.stored_size, header.orientation)
    elif annotation.stated_size not in (None, header.stored_size) and len(boxes):
        assert annotation.stated_size is not None
        scale = _common_scale(annotation.stated_size, (width, height))
        if scale and rescale:
            boxes /= scale
            areas = None if areas is None else areas / scale**2
            faults, scale = [fault for fault in faults if fault.kind != "size-differs"], 0.0
        outside_stated, outside = (_leaving(boxes, *size) for size in (annotation.stated_size, (width, height)))
    clipped = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    keep = np.ones(len(boxes), bool)
    for i in _suspects(boxes, clipped, annotation.labels, may_be_shares=_may_be_shares(annotation, width, height)):
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
        areas=_areas(areas, clipped)[keep],
    )
    unsettled = annotation.relative or annotation.stated_size == (width, height) == header.stored_size
    turned = header.orientation != 1 and len(boxes) > 0 and unsettled
    return Checked(record, faults, turned, scale, outside_stated, outside)


def _common_scale(stated: tuple[int, int], size: tuple[int, int]) -> float:
    """The common ratio of both sides, up to rounding to whole pixels; 0 if there is none."""
    across, down = stated[0] / size[0], stated[1] / size[1]
    rounding = 1 / min(stated) + 1 / min(size)
    one = abs(across / down - 1) <= rounding and abs(across - 1) > rounding
    return (across + down) / 2 if one else 0.0


def _leaving(boxes: np.ndarray, width: int, height: int) -> int:
    return int((boxes[:, 2:] > np.array([width, height]) + _TOLERANCE_PX).any(1).sum())


def _areas(stated: np.ndarray | None, boxes: np.ndarray) -> np.ndarray:
    own = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(1)
    stated = own if stated is None else stated
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
    if header.orientation != 1 and len(annotation.boxes_xyxy) and stated is None and not annotation.relative:
        problem = f"EXIF orientation {header.orientation}, and no size shows whether boxes were drawn before it"
        faults.append(Fault("exif-orientation", annotation.source, annotation.file_name, problem))
    return faults


def _suspects(boxes: np.ndarray, clipped: np.ndarray, labels: np.ndarray, *, may_be_shares: bool) -> list[int]:
    """Indices of the faulty boxes, found for all boxes at once, because there are nearly always none."""
    moved = np.abs(boxes - clipped).max(1, initial=0)
    suspect = ~(moved <= _TOLERANCE_PX) | (clipped[:, 2:] <= clipped[:, :2]).any(1)  # NaN compares false
    if may_be_shares:
        suspect |= (boxes[:, 2:] <= 1).all(1)
    keys = list(zip(*boxes.T.tolist(), labels.tolist(), strict=True))
    if len(set(keys)) < len(keys):
        first: dict[tuple[float, ...], int] = {}
        for i, key in enumerate(keys):
            suspect[i] |= first.setdefault(key, i) != i
    return np.flatnonzero(suspect).tolist()


def _box_fault(annotation: Annotation, i: int, box: np.ndarray, clipped: np.ndarray, width: int, height: int) -> Fault:
    def fault(kind: str, problem: str) -> Fault:
        return Fault(kind, annotation.source, annotation.item_of(i), problem)

    if not np.isfinite(box).all():
        return fault("not-a-number", f"coordinates {_numbers(box)}")
    x1, y1, x2, y2 = cast(list[float], box.tolist())
    if x2 <= x1 or y2 <= y1:
        return fault("zero-area", f"width {x2 - x1:g} and height {y2 - y1:g} pixels")
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        hint = "; are its numbers pixels? YOLO's are fractions" if annotation.relative else ""
        return fault("outside", f"{_numbers(box)} lies outside the image of {width} x {height}{hint}")
    if x2 <= 1 and y2 <= 1 and _may_be_shares(annotation, width, height):
        hint = "if they are shares of the image, multiply them by its width and height"
        return fault("within-a-pixel", f"{_numbers(box)} lies within the first pixel; {hint}")
    if min(x1, y1, width - x2, height - y2) < -_TOLERANCE_PX:
        return fault("partly-outside", f"{_numbers(box)} leaves the image of {width} x {height}")
    return fault("duplicate-box", "the same box and class twice")


def _may_be_shares(annotation: Annotation, width: int, height: int) -> bool:
    """Whether boxes within the first pixel are more likely fractions of the image than objects."""
    return not annotation.relative and min(width, height) > 1


def _numbers(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{v:g}" for v in box.tolist()) + "]"
