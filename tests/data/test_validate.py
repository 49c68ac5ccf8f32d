import numpy as np
import pytest
from PIL import Image

from focaldet.data.records import Annotation
from focaldet.data.validate import validate, validate_all

from .builders import png_header, write_photo


def annotation(path, boxes, *, stated_size=(64, 48), labels=None, relative=False) -> Annotation:
    return Annotation(
        path=path,
        file_name=path.name,
        image_id=1,
        source="labels.json",
        stated_size=stated_size,
        boxes_xyxy=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels or [0] * len(boxes), np.int64),
        ignored=np.zeros(len(boxes), bool),
        numbers=np.arange(len(boxes)),
        item="box {}",
        class_names=("cat", "dog"),
        relative=relative,
    )


@pytest.fixture
def photo(tmp_path):
    return write_photo(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([8, 8, 8, 20], "zero-area"),
        ([20, 8, 8, 20], "zero-area"),
        ([70, 8, 90, 20], "outside"),
        ([-20, 8, 0, 20], "outside"),
        ([float("nan"), 8, 20, 20], "not-a-number"),
        ([8, 8, float("inf"), 20], "not-a-number"),
    ],
)
def test_a_faulty_box_is_left_out_and_named(photo, box, kind):
    record, faults, *_ = validate(annotation(photo, [[1, 1, 5, 5], box]))
    assert record.boxes_xyxy.tolist() == [[1, 1, 5, 5]]
    assert [(f.kind, f.file, f.item) for f in faults] == [(kind, "labels.json", "box 1 (cat)")]
    assert faults[0].loses_box
    assert "\n" not in str(faults[0])


def test_a_box_that_leaves_the_image_is_clipped_and_named(photo):
    record, faults, *_ = validate(annotation(photo, [[-5, 8, 20, 60]]))
    assert record.boxes_xyxy.tolist() == [[0, 8, 20, 48]]
    assert [f.kind for f in faults] == ["partly-outside"]


def test_a_box_that_leaves_by_rounding_is_clipped_in_silence(photo):
    record, faults, *_ = validate(annotation(photo, [[-0.4, 0, 64.6, 48]]))
    assert record.boxes_xyxy.tolist() == [[0, 0, 64, 48]]
    assert faults == []


def test_the_same_box_twice_is_a_fault_but_not_for_another_class(photo):
    record, faults, *_ = validate(annotation(photo, [[1, 1, 5, 5]] * 3, labels=[0, 1, 0]))
    assert record.labels.tolist() == [0, 1]
    assert [(f.kind, f.item) for f in faults] == [("duplicate-box", "box 2 (cat)")]


def test_a_size_that_differs_is_told_and_the_boxes_stay(photo):
    record, faults, *_ = validate(annotation(photo, [[1, 1, 5, 5]], stated_size=(128, 50)))
    assert record.boxes_xyxy.tolist() == [[1, 1, 5, 5]]
    assert (record.width, record.height) == (64, 48)
    assert [f.kind for f in faults] == ["size-differs"]
    assert "128 x 50" in faults[0].problem


def test_a_missing_image_leaves_no_record(tmp_path):
    record, faults, *_ = validate(annotation(tmp_path / "gone.jpg", [[1, 1, 5, 5]]))
    assert record is None
    assert [f.kind for f in faults] == ["missing-image"]
    assert faults[0].loses_image


def test_a_text_file_and_a_bomb_leave_no_record(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    for path in (tmp_path / "text.jpg", png_header(tmp_path / "bomb.png", 200_000, 100_000)):
        record, faults, *_ = validate(annotation(path, [[1, 1, 5, 5]]))
        assert record is None
        assert [(f.kind, f.item) for f in faults] == [("unreadable-image", path.name)]


def test_a_png_named_jpg_is_used_and_told(tmp_path):
    write_photo(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    record, faults, *_ = validate(annotation(tmp_path / "a.jpg", []))
    assert record is not None
    assert [f.kind for f in faults] == ["mislabelled-image"]


def test_an_impossible_file_name_is_a_missing_image(tmp_path):
    record, faults, *_ = validate(annotation(tmp_path / ("x" * 5000 + ".jpg"), []))
    assert record is None
    assert [f.kind for f in faults] == ["missing-image"]


def _rotated(path, orientation, size=(64, 48)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return write_photo(path, size, exif=exif)


@pytest.mark.parametrize(("orientation", "expected"), [(5, [2, 10, 8, 30]), (6, [40, 10, 46, 30]), (8, [2, 34, 8, 54])])
def test_boxes_drawn_on_the_stored_pixels_turn_with_the_photo(tmp_path, orientation, expected):
    # The stated size is the stored one: 64 x 48, displayed as 48 x 64.
    photo = _rotated(tmp_path / "a.jpg", orientation)
    record, faults, *_ = validate(annotation(photo, [[10, 2, 30, 8]], stated_size=(64, 48)))
    assert (record.width, record.height) == (48, 64)
    assert record.boxes_xyxy.tolist() == [expected]
    assert faults == []


def test_boxes_drawn_on_the_displayed_photo_stay(tmp_path):
    photo = _rotated(tmp_path / "a.jpg", 6)
    record, faults, *_ = validate(annotation(photo, [[10, 2, 30, 8]], stated_size=(48, 64)))
    assert record.boxes_xyxy.tolist() == [[10, 2, 30, 8]]
    assert faults == []


def test_fractions_refer_to_the_displayed_photo(tmp_path):
    photo = _rotated(tmp_path / "a.jpg", 6)
    record, faults, *_ = validate(annotation(photo, [[0.5, 0.25, 1, 1]], stated_size=None, relative=True))
    assert record.boxes_xyxy.tolist() == [[24, 16, 48, 64]]
    assert faults == []


@pytest.mark.parametrize(("orientation", "size"), [(3, (64, 48)), (6, (48, 48))])
def test_a_rotation_that_no_size_can_settle_is_told(tmp_path, orientation, size):
    photo = _rotated(tmp_path / "a.jpg", orientation, size)
    record, faults, *_ = validate(annotation(photo, [[10, 2, 30, 8]], stated_size=size))
    assert record.boxes_xyxy.tolist() == [[10, 2, 30, 8]]
    assert faults == []
    (_, _, notes) = validate_all([annotation(photo, [[10, 2, 30, 8]], stated_size=size)])
    assert "EXIF rotates 1 photo" in notes[0]


def test_a_rotation_without_a_stated_size_is_a_fault(tmp_path):
    _, faults, *_ = validate(annotation(_rotated(tmp_path / "a.jpg", 6), [[10, 2, 30, 8]], stated_size=None))
    assert [f.kind for f in faults] == ["exif-orientation"]


@pytest.mark.parametrize(
    ("stated_size", "boxes", "left_out"),
    [
        ((32, 24), [[1, 1, 30, 20]], True),  # all within the smaller copy
        ((32, 24), [[1, 1, 40, 20]], False),  # one outside of it: they are of the photo
        ((128, 96), [[1, 1, 100, 20]], True),  # outside of the photo: they are of the copy
        ((128, 96), [[1, 1, 60, 20]], True),  # who knows
        ((128, 96), [[i, 1, i + 20, 20] for i in range(12)], False),  # twelve, and none outside of the photo
    ],
)
def test_boxes_of_a_scaled_copy_are_left_out_and_the_scale_is_told(photo, stated_size, boxes, left_out):
    labels = annotation(photo, boxes, stated_size=stated_size)
    records, faults, _ = validate_all([labels])
    assert (records[0] is None) == left_out
    assert [f.kind for f in faults][:1] == ["scaled-size" if left_out else "size-differs"]
    if left_out:
        scale = 64 / stated_size[0]
        assert f"multiply them by {scale:g}" in faults[0].problem
        (record,), faults, _ = validate_all([labels], rescale=True)
        assert faults == []
        assert record.boxes_xyxy.tolist() == (np.array(boxes) * scale).tolist()


def test_boxes_within_the_first_pixel_are_taken_for_shares_and_left_out(photo):
    record, faults, *_ = validate(annotation(photo, [[0.1, 0.1, 0.9, 1], [0, 0, 1, 1.5]]))
    assert record.boxes_xyxy.tolist() == [[0, 0, 1, 1.5]]
    assert [f.kind for f in faults] == ["within-a-pixel"]


def test_a_box_of_a_pixel_is_an_object_in_fractions_and_in_a_photo_that_is_no_larger(tmp_path):
    pixel = write_photo(tmp_path / "pixel.png", (1, 1))
    record, faults, *_ = validate(annotation(pixel, [[0, 0, 1, 1]], stated_size=(1, 1)))
    assert (record.num_objects, faults) == (1, [])
    photo = write_photo(tmp_path / "a.jpg")
    record, faults, *_ = validate(annotation(photo, [[0, 0, 1 / 64, 1 / 48]], stated_size=None, relative=True))
    assert (record.num_objects, faults) == (1, [])
