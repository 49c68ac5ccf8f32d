import numpy as np
import pytest
from handmade import make_scene

from focaldet.study.boxes import page_boxes
from focaldet.study.deviations import DeviationMeasure, Sides, deciles, deviations

OBJECT = [0.0, 0.0, 100.0, 50.0]


def test_deviations_that_are_the_errors_tell_them_perfectly():
    error = np.arange(1.0, 21)
    said = deviations(Sides(error, error, np.full(20, 100.0)))
    assert (said["correlation"], said["correlation_relative"], said["ratio"]) == (1, 1, 1)
    assert (said["within_1"], said["within_2"]) == (1, 1)


def test_a_correlation_that_is_only_the_objects_size_vanishes_beside_it():
    length = np.repeat([10.0, 100.0, 1000.0], 4)
    relative = np.tile([1.0, 2.0, 3.0, 4.0], 3), np.tile([4.0, 3.0, 2.0, 1.0], 3)
    said = deviations(Sides(relative[0] * length, relative[1] * length, length))
    assert said["correlation"] > 0.7
    assert said["correlation_relative"] == -1


def test_errors_of_twice_the_deviation_are_too_sure():
    said = deviations(Sides(np.full(8, 2.0), np.array([4.0] * 4 + [3.0] * 4), np.ones(8)))
    assert said["ratio"] == pytest.approx((12.5**0.5) / 2, abs=1e-6)
    assert (said["within_1"], said["within_2"]) == (0, 1)


def test_no_side_is_no_number():
    none = Sides(np.zeros(0), np.zeros(0), np.zeros(0))
    assert deviations(none)["ratio"] is None
    assert deciles(none) == []


def test_sides_are_measured_against_the_object_that_was_found():
    measure = DeviationMeasure()
    scene = make_scene(
        [OBJECT], [[3.0, 1.0, 100.0, 46.0], [150.0, 150.0, 180.0, 180.0]], [0.9, 0.8], std=[[1, 2, 3, 4], [9, 9, 9, 9]]
    )
    measure.add(scene, page_boxes(scene))
    sides = measure.sides()
    assert sides.error_px.tolist() == [3, 1, 0, 4]  # the second box found nothing
    assert sides.deviation_px.tolist() == [1, 2, 3, 4]
    assert sides.length_px.tolist() == [100, 50, 100, 50]


def test_boxes_without_distributions_are_not_measured():
    measure = DeviationMeasure()
    scene = make_scene([OBJECT], [OBJECT], [0.9])
    measure.add(scene, page_boxes(scene))
    assert measure.sides() is None
    assert measure.extremes() == ([], [])


def test_the_extremes_are_one_a_photo_and_counted_in_bins():
    measure = DeviationMeasure()
    for image, std in ((1, [8.0, 2.0, 4.0, 4.0]), (2, [1.0, 16.0, 4.0, 4.0])):
        scene = make_scene([OBJECT], [OBJECT], [0.9], std=[std], image_id=image)
        measure.add(scene, page_boxes(scene))
    sharpest, ambiguous = measure.extremes()
    assert [(x["image_id"], x["side"], x["std_bins"]) for x in sharpest] == [(2, 0, 0.125), (1, 1, 0.25)]  # of 8 px
    assert [(x["image_id"], x["side"], x["std_bins"]) for x in ambiguous] == [(2, 1, 2.0), (1, 0, 1.0)]
