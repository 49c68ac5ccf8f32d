import numpy as np
import pytest
from PIL import Image

from focaldet.photos.draw import class_color, draw_detections, draw_truth

GREY = Image.new("RGB", (320, 240), (128, 128, 128))


def rgb(color: str) -> tuple[int, int, int]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def count_of(picture: Image.Image, color: tuple[int, int, int], height: int | None = None) -> int:
    pixels = np.asarray(picture)[:height]
    return int((pixels == np.array(color)).all(axis=2).sum())


def changed(picture: Image.Image, scale: int = 3) -> np.ndarray:
    """Where the photo's part of the picture differs from the enlarged grey photo."""
    return (np.asarray(picture)[: 240 * scale] != 128).any(axis=2)


def test_small_photo_is_enlarged_and_a_large_one_is_not() -> None:
    small = draw_detections(GREY, [], [], [], ["cell"])
    large = draw_detections(Image.new("RGB", (1600, 900)), [], [], [], ["cell"])
    assert small.width == 960
    assert large.width == 1600
    assert draw_detections(GREY, [], [], [], ["cell"], scale=1).width == 320


def test_box_has_the_colour_of_its_class_and_not_its_mirror_image() -> None:
    # A library that reads arrays as BGR would swap red and blue.
    for label in (0, 1):
        color = rgb(class_color(label))
        picture = draw_detections(GREY, [[100, 100, 200, 180]], [label], None, ["a", "b"])
        assert count_of(picture, color, 720) > 1000
        assert count_of(picture, color[::-1], 720) == 0


def test_unsure_side_has_the_wide_band_and_the_sure_side_has_none() -> None:
    box = [100, 100, 200, 180]
    without = changed(draw_detections(GREY, [box], [0], None, ["cell"]))
    with_bands = changed(draw_detections(GREY, [box], [0], None, ["cell"], [[0, 0, 10, 0]]))
    row = 3 * 140  # through the middle of the box

    def width_around(pixels: np.ndarray, x: int) -> int:
        return int(pixels[row, 3 * x - 60 : 3 * x + 60].sum())

    assert width_around(with_bands, 200) == pytest.approx(2 * 10 * 3, abs=3)
    assert width_around(with_bands, 100) == width_around(without, 100) < 12


@pytest.mark.parametrize(
    "box",
    [[0, 0, 12, 12], [308, 0, 320, 12], [0, 228, 12, 240], [308, 228, 320, 240], [0, 0, 320, 100], [0, 0, 320, 240]],
)
def test_label_at_the_border_is_whole(box: list[int]) -> None:
    def letters(box: list[int]) -> int:
        return count_of(draw_detections(GREY, [box], [0], [0.9], ["a long name"]), (255, 255, 255), 720)

    assert letters(box) == letters([120, 100, 200, 150]) > 20


def test_label_does_not_hide_a_small_object() -> None:
    # The small box lies exactly where the large box's label would go first.
    large, small = [50, 100, 250, 200], [50, 88, 70, 98]
    picture = draw_detections(GREY, [large, small], [0, 1], [0.9, 0.8], ["large", "small"])
    inside = np.asarray(picture)[3 * 90 : 3 * 96, 3 * 53 : 3 * 67]
    assert (inside == 128).all()


def test_hundreds_of_boxes_are_drawn_with_their_class_in_the_strip() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 280, (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (300, 2))], axis=1)
    picture = draw_detections(GREY, boxes, rng.integers(0, 3, 300), rng.uniform(size=300), ["a", "b", "c"], boxes / 100)
    strip = np.asarray(picture)[720:]
    assert all((strip == np.array(rgb(class_color(i)))).all(axis=2).sum() > 100 for i in range(3))
    assert (changed(picture) == 0).any()


def test_truth_is_dashed_and_a_detection_is_not() -> None:
    box = [[100, 100, 200, 180]]
    solid, dashed = draw_detections(GREY, box, [0], None, ["cell"]), draw_truth(GREY, box, [0], ["cell"])
    color = rgb(class_color(0))
    assert 0.3 < count_of(dashed, color, 720) / count_of(solid, color, 720) < 0.8


def test_array_and_image_give_the_same_picture_and_stay_untouched() -> None:
    array = np.asarray(GREY).copy()
    arguments = ([[10, 10, 60, 60]], [0], [0.5], ["cell"], [[1, 1, 1, 1]])
    one, two = draw_detections(array, *arguments), draw_detections(GREY, *arguments)
    assert np.array_equal(np.asarray(one), np.asarray(two))
    assert (array == 128).all()


def test_box_far_outside_and_inverted_box_do_no_harm() -> None:
    boxes = [[-1e12, -1e12, 1e12, 1e12], [90, 90, 20, 20]]
    assert draw_detections(GREY, boxes, [0, 0], [0.9, 0.8], ["cell"], [[1e12] * 4, [1] * 4]).width == 960


def test_eighty_classes_have_eighty_colours() -> None:
    assert len({class_color(i) for i in range(80)}) == 80
    assert class_color(5) == class_color(5)


@pytest.mark.parametrize(
    ("boxes", "labels", "scores", "message"),
    [
        ([[0, 0, 1]], [0], [0.5], "boxes_xyxy: expected shape"),
        ([[0, 0, 1, np.nan]], [0], [0.5], "boxes_xyxy: expected finite"),
        ([[0, 0, 1, 1]], [1], [0.5], "labels: expected classes"),
        ([[0, 0, 1, 1]], [0], [0.5, 0.6], "scores: expected shape"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(boxes: list, labels: list, scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_detections(GREY, boxes, labels, scores, ["cell"])
