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
    groups: dict[tuple[str, Form], list[tuple[Annotation, tuple[int, int]]]] = {}
    # A photo of two splits has one annotation.
    for annotation, header in {id(a): (a, h) for a, h in zip(annotations, headers, strict=True)}.values():
        if isinstance(header, str) or not len(annotation.boxes_xyxy):
            continue
        # YOLO has a file for each image: they are judged together.
        key: tuple[str, Form] = (annotation.source if annotation.form == "size" else "", annotation.form)
        groups.setdefault(key, []).append((annotation, (header.width, header.height)))
    for (_, form), group in groups.items():
        relative = group[0][0].relative
        sizes = [size if relative else a.stated_size or size for a, size in group]
        boxes = np.concatenate([a.boxes_xyxy for a, _ in group])
        limits = np.repeat(np.array(sizes, np.float64), [len(a.boxes_xyxy) for a, _ in group], axis=0)
        if relative:
            boxes *= np.tile(limits, (1, 2))
        sources = dict.fromkeys(a.source for a, _ in group)
        source = next(iter(sources)) + (" and others" if len(sources) > 1 else "")
        _check_form(source, form, boxes, limits + _TOLERANCE_PX)


def _check_form(source: str, form: Form, boxes: NDArray[np.float64], limits: NDArray[np.float64]) -> None:
    """
    Args:
        boxes: ``(N, 4)`` corners as they were read.
        limits: ``(N, 2)`` width and height of each box's image.
    """
    with np.errstate(invalid="ignore"):  # infinite numbers are faults of their boxes, found later
        ends = boxes[:, 2:]
        sides = ends - boxes[:, :2]
        centres = (boxes[:, :2] + ends) / 2
        place = centres if form == "centre" else boxes[:, :2]
        second = ends if form == "corners" else sides
        wrong = ((ends > limits) | (boxes[:, :2] < -_TOLERANCE_PX) | (sides <= 0)).any(1)
        fits: dict[Form, NDArray[np.bool_]] = {
            "corners": (second > place) & (second <= limits),
            "size": (place >= 0) & (second > 0) & (place + second <= limits),
            "centre": (place >= second / 2 - _TOLERANCE_PX) & (second > 0) & (place + second / 2 <= limits),
        }
        far = int((centres > limits).any(1).sum())
    if not wrong.sum() or wrong.sum() < _OUTSIDE_SHARE * len(boxes):
        return
    for other in _WRITTEN:
        # Two corners are in order by chance only rarely; few boxes may fit as anything else.
        enough = other == "corners" or len(boxes) >= _ENOUGH_BOXES
        if other != form and enough and fits[other].all():
            raise InputError(
                f"{source}: {wrong.sum():,} of {len(boxes):,} boxes leave their image or have no area, and all fit in "
                f"another form: they look like {_WRITTEN[other]}, and are read as {_WRITTEN[form]}; convert them"
            )
    if form == "centre" and len(boxes) >= _ENOUGH_BOXES and 2 * far > len(boxes):
        raise InputError(
            f"{source}: {far:,} of {len(boxes):,} boxes have their centre outside the image: YOLO's numbers are "
            "fractions of the image; if these are pixels or percent, divide them"
        )
