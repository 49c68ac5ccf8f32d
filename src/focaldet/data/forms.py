"""Boxes that were read in one form, and make sense only in another: COCO's sizes that are corners, YOLO's centres that
are corners.

Axes: N boxes of one file.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.data.records import Annotation, Form
from focaldet.photos.images import ImageHeader

_OUTSIDE_SHARE = 0.1
"""So many boxes that leave their image, while all fit in another form, are no accident."""

_ENOUGH_BOXES = 10
"""So many boxes that all fit as a corner and a size are not centres that happen to lie there."""

_WRITTEN: dict[Form, str] = {
    "corners": "[x1, y1, x2, y2]",
    "size": "[x, y, width, height]",
    "centre": "[x centre, y centre, width, height]",
}

_TOLERANCE_PX = 1.0


def check_forms(annotations: Sequence[Annotation], headers: Sequence[ImageHeader | str]) -> None:
    """Raise InputError where the boxes of a file leave their images, and all of them fit in another form.

    Args:
        headers: of each image; a word where it cannot be read.
    """
    groups: dict[tuple[str, Form], list[tuple[NDArray[np.float64], tuple[int, int]]]] = {}
    sources: dict[tuple[str, Form], dict[str, None]] = {}
    # A photo of two splits has one annotation.
    for annotation, header in {id(a): (a, h) for a, h in zip(annotations, headers, strict=True)}.values():
        if annotation.form == "corners" or isinstance(header, str) or not len(annotation.boxes_xyxy):
            continue
        size = (header.width, header.height)
        scale = np.array((*size, *size), np.float64) if annotation.relative else 1.0
        # YOLO has a file for each image: they are judged together.
        key: tuple[str, Form] = (annotation.source if annotation.form == "size" else "", annotation.form)
        sources.setdefault(key, {})[annotation.source] = None
        stated = size if annotation.relative else annotation.stated_size or size
        groups.setdefault(key, []).append((annotation.boxes_xyxy * scale, stated))
    for key, group in groups.items():
        boxes = np.concatenate([found for found, _ in group])
        limits = np.concatenate([np.tile(np.array(size, np.float64), (len(found), 1)) for found, size in group])
        source = next(iter(sources[key])) + (" and others" if len(sources[key]) > 1 else "")
        _check_form(source, key[1], boxes, limits + _TOLERANCE_PX)


def _check_form(source: str, form: Form, boxes: NDArray[np.float64], limits: NDArray[np.float64]) -> None:
    """
    Args:
        boxes: ``(N, 4)`` corners as they were read.
        limits: ``(N, 2)`` width and height of each box's image.
    """
    with np.errstate(invalid="ignore"):  # infinite numbers are faults of their boxes, found later
        sides = boxes[:, 2:] - boxes[:, :2]
        place = (boxes[:, :2] + boxes[:, 2:]) / 2 if form == "centre" else boxes[:, :2]
        outside = int(((boxes[:, 2:] > limits) | (boxes[:, :2] < -_TOLERANCE_PX)).any(1).sum())
        as_corners = bool(((sides > place) & (sides <= limits)).all())
        as_size = bool((place + sides <= limits).all())
    if not outside or outside < _OUTSIDE_SHARE * len(boxes):
        return
    if as_corners or (form == "centre" and as_size and len(boxes) >= _ENOUGH_BOXES):
        other: Form = "corners" if as_corners else "size"
        raise InputError(
            f"{source}: {outside:,} of {len(boxes):,} boxes leave their image, and all of them fit in another form: "
            f"they look like {_WRITTEN[other]}, and are read as {_WRITTEN[form]}; convert them"
        )
