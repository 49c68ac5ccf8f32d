"""Detect boxes that make sense only in another form than they were read in: corners instead of COCO's sizes or YOLO's
centres.

Axes: N boxes of one file.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.data.records import Annotation, Form
from focaldet.photos.images import ImageHeader

_OUTSIDE_SHARE = 0.1
"""If at least this many boxes leave their image and all fit in another form, it is no accident."""

_ENOUGH_BOXES = 10
"""If at least this many boxes all fit as a corner and a size, they are not centres by chance."""

_WRITTEN: dict[Form, str] = {
    "corners": "[x1, y1, x2, y2]",
    "size": "[x, y, width, height]",
    "centre": "[x centre, y centre, width, height]",
}

_EXCHANGED: dict[Form, str] = {
    "corners": "[y1, x1, y2, x2]",
    "size": "[y, x, height, width]",
    "centre": "[y centre, x centre, height, width]",
}

_TOLERANCE_PX = 1.0


def check_forms(annotations: Sequence[Annotation], headers: Sequence[ImageHeader | str]) -> None:
    """Raise InputError if boxes of a file leave their images, but all of them fit in another form.

    Args:
        headers: header of each image, or why it cannot be read.
    """
    groups: dict[tuple[str, Form, bool], list[tuple[Annotation, tuple[int, int]]]] = {}
    # A photo in two splits has one annotation.
    for annotation, header in {id(a): (a, h) for a, h in zip(annotations, headers, strict=True)}.values():
        if isinstance(header, str) or not len(annotation.boxes_xyxy):
            continue
        if header.orientation >= 5 and not annotation.relative:  # its boxes may refer to the unrotated image
            continue
        # YOLO has one file per image: they are judged together.
        source = annotation.source if annotation.form == "size" else ""
        group = groups.setdefault((source, annotation.form, annotation.relative), [])
        group.append((annotation, (header.width, header.height)))
    for (_, form, relative), group in groups.items():
        counts = [len(a.boxes_xyxy) for a, _ in group]
        boxes = np.concatenate([a.boxes_xyxy for a, _ in group])
        limits = np.repeat(np.array([size for _, size in group], np.float64), counts, axis=0)
        if relative:
            boxes *= np.tile(limits, (1, 2))
        else:  # a stated size may belong to a larger copy, or be wrong
            stated = [a.stated_size or size for a, size in group]
            limits = np.maximum(limits, np.repeat(np.array(stated, np.float64), counts, axis=0))
        sources = dict.fromkeys(a.source for a, _ in group)
        source = next(iter(sources)) + (" and others" if len(sources) > 1 else "")
        _check_form(source, form, boxes, limits + _TOLERANCE_PX, relative=relative)


def _check_form(
    source: str, form: Form, boxes: NDArray[np.float64], limits: NDArray[np.float64], *, relative: bool
) -> None:
    """
    Args:
        boxes: ``(N, 4)`` corners as they were read.
        limits: ``(N, 2)`` width and height of each box's image.
    """
    with np.errstate(invalid="ignore"):  # infinite numbers are reported later, as faults of their boxes
        first, ends = boxes[:, :2], boxes[:, 2:]
        sides, centres = ends - first, (first + ends) / 2
        wrong = int(((ends > limits) | (first < -_TOLERANCE_PX) | (sides <= 0)).any(1).sum())
        far = int((centres > limits).any(1).sum())
    if not wrong or wrong < _OUTSIDE_SHARE * len(boxes):
        return
    written = (centres if form == "centre" else first, ends if form == "corners" else sides)
    fitting = [_WRITTEN[other] for other in _fitting(*written, limits) if other != form]
    if not relative:
        exchanged = _fitting(written[0][:, ::-1], written[1][:, ::-1], limits)
        fitting += [_EXCHANGED[other] for other in exchanged]
    # Two corners are rarely in order by chance, but a few boxes may fit in any other form.
    fitting = [other for other in fitting if other == _WRITTEN["corners"] or len(boxes) >= _ENOUGH_BOXES]
    if fitting:
        raise InputError(
            f"{source}: {wrong:,} of {len(boxes):,} boxes leave their image or have no area, and all fit in another "
            f"form: they look like {fitting[0]}, and are read as {_WRITTEN[form]}; convert them"
        )
    if form == "centre" and len(boxes) >= _ENOUGH_BOXES and 2 * far > len(boxes):
        raise InputError(
            f"{source}: {far:,} of {len(boxes):,} boxes have their centre outside the image: YOLO's numbers are "
            "fractions of the image; if these are pixels or percent, divide them"
        )


def _fitting(place: NDArray[np.float64], second: NDArray[np.float64], limits: NDArray[np.float64]) -> list[Form]:
    """The forms in which all boxes lie within their images.

    Args:
        place: ``(N, 2)``, the first two numbers in the file.
        second: ``(N, 2)``, the other two.
    """
    with np.errstate(invalid="ignore"):
        fits: dict[Form, NDArray[np.bool_]] = {
            "corners": (second > place) & (second <= limits),
            "size": (place >= 0) & (second > 0) & (place + second <= limits),
            "centre": (place >= second / 2 - _TOLERANCE_PX) & (second > 0) & (place + second / 2 <= limits),
        }
    return [form for form, fit in fits.items() if fit.all()]
