"""Boxes that are written in another form than they are read."""

import re
from dataclasses import replace

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.forms import check_forms
from focaldet.data.records import Annotation, DataFolder, ImageRecord
from focaldet.data.suspicious import like_percent
from focaldet.photos.images import ImageHeader

WIDTH, HEIGHT = 640, 480
AS_WRITTEN = {
    "corners": lambda x1, y1, x2, y2: (x1, y1, x2, y2),
    "size": lambda x1, y1, x2, y2: (x1, y1, x2 - x1, y2 - y1),
    "centre": lambda x1, y1, x2, y2: ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
}
AS_READ = {
    "corners": lambda a, b, c, d: (a, b, c, d),
    "size": lambda a, b, c, d: (a, b, a + c, b + d),
    "centre": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
}


def drawn(count=40):
    """Corners of boxes anywhere in the photo."""
    rng = np.random.default_rng(3)
    first = rng.uniform(0, [WIDTH - 60, HEIGHT - 60], (count, 2))
    return np.concatenate([first, rng.uniform(first + 8, [WIDTH, HEIGHT])], axis=1)


def annotation(tmp_path, boxes, form, relative=False):
    return Annotation(
        path=tmp_path / "a.jpg",
        file_name="a.jpg",
        image_id=1,
        source="labels",
        stated_size=None,
        boxes_xyxy=boxes / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]) if relative else boxes,
        labels=np.zeros(len(boxes), np.int64),
        ignored=np.zeros(len(boxes), bool),
        numbers=np.arange(len(boxes)),
        item="{}",
        class_names=("cat",),
        relative=relative,
        form=form,
    )


def checked(tmp_path, boxes, form, relative=False):
    check_forms([annotation(tmp_path, boxes, form, relative)], [ImageHeader(WIDTH, HEIGHT, 1, "JPEG")])


def written_and_read(written, read, boxes):
    return np.array([AS_READ[read](*AS_WRITTEN[written](*box)) for box in boxes.tolist()])


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("form", AS_READ)
@pytest.mark.parametrize("written", AS_WRITTEN)
def test_boxes_of_another_form_are_refused_with_their_own(tmp_path, written, form, relative):
    boxes = written_and_read(written, form, drawn())
    if written == form:
        checked(tmp_path, boxes, form, relative)
        return
    own = {"corners": "[x1, y1, x2, y2]", "size": "[x, y, width, height]", "centre": "[x centre, y centre, "}[written]
    with pytest.raises(InputError, match=f"look like {re.escape(own)}"):
        checked(tmp_path, boxes, form, relative)


def test_exchanged_axes_are_refused_but_not_where_only_the_stated_size_is(tmp_path):
    boxes = drawn()[:, [1, 0, 3, 2]]
    for form in AS_READ:
        with pytest.raises(InputError, match=re.escape("look like [y1, x1, y2, x2]")):
            checked(tmp_path, written_and_read("corners", form, boxes), form)
    right = replace(annotation(tmp_path, drawn(), "corners"), stated_size=(HEIGHT, WIDTH))
    check_forms([right], [ImageHeader(WIDTH, HEIGHT, 1, "JPEG")])


def test_boxes_of_a_photo_that_exif_turns_are_judged_elsewhere(tmp_path):
    stored = annotation(tmp_path, drawn(), "corners")
    check_forms([stored], [ImageHeader(HEIGHT, WIDTH, 6, "JPEG")])


def test_a_few_boxes_that_leave_their_photo_are_faults_of_their_own(tmp_path):
    boxes = drawn()
    boxes[:3, 2:] += WIDTH
    checked(tmp_path, boxes, "size")
    checked(tmp_path, written_and_read("size", "centre", drawn(5)), "centre")  # too few to tell


def test_pixels_where_fractions_belong_are_refused(tmp_path):
    boxes = drawn() * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    with pytest.raises(InputError, match="40 of 40 boxes have their centre outside the image: YOLO's numbers are frac"):
        checked(tmp_path, boxes, "centre", relative=True)


def test_numbers_that_are_not_finite_are_faults_of_their_own(tmp_path):
    boxes = drawn()
    boxes[0, 0], boxes[1, 3] = np.nan, np.inf
    checked(tmp_path, boxes, "size")


@pytest.mark.parametrize(
    ("scale", "told"), [((100 / WIDTH, 100 / HEIGHT), True), ((0.05, 0.05), False), ((1, 1), False)]
)
def test_boxes_that_seem_to_be_percent_are_told(tmp_path, scale, told):
    boxes = (drawn() * np.tile(scale, 2)).astype(np.float32)
    labels = np.zeros(len(boxes), np.int64)
    record = ImageRecord(tmp_path / "a.jpg", "a.jpg", 1, WIDTH, HEIGHT, boxes, labels, labels > 0)
    folder = DataFolder(tmp_path, "coco", ("cat",), {"train": (record,)}, "", "", ())
    assert bool(like_percent(folder)) == told
