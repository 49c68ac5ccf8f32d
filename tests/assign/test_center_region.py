import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import STRIDES, by_image, check_padded, lattice_of, random_boxes, random_size, tied_scenes, truth_of
from textbook import center_region

from focaldet.assign import windows
from focaldet.assign.center_region import assign_center_region, level_ranges
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, IGNORED

RADII = [1.5, None, 0.4, 2.25]
ONE_LEVEL = Lattice(((8, 8),), (8,))


def textbook(truth, lattice, **options):
    return by_image(center_region, truth, lattice, **options)


def positives(matched):
    """Locations of the one-level, 8 x 8 lattice that have an object, as (row, column)."""
    return (matched.view(8, 8) >= 0).nonzero().tolist()


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("seed", range(6))
def test_assignment_is_the_textbooks_on_random_batches(seed, radius):
    rng = np.random.default_rng(seed)
    height, width = random_size(rng, 64, 600)
    lattice = lattice_of(height, width, offset=(0.0, 0.5)[seed % 2])
    truth = truth_of(*(random_boxes(rng, count, height, width) for count in rng.choice([0, 1, 3, 60], 3)))
    assert torch.equal(
        assign_center_region(truth, lattice, radius=radius).matched_gt, textbook(truth, lattice, radius=radius)
    )


@pytest.mark.parametrize(("height", "width", "count"), [(1600, 1211, 60), (64, 1600, 100), (416, 500, 500)])
def test_assignment_is_the_textbooks_on_large_scenes(height, width, count):
    truth = truth_of(random_boxes(np.random.default_rng(count), count, height, width))
    lattice = lattice_of(height, width)
    for radius in (1.5, None):
        expected = textbook(truth, lattice, radius=radius)
        assert (expected >= 0).sum() > count  # the case has objects to find
        assert torch.equal(assign_center_region(truth, lattice, radius=radius).matched_gt, expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_the_textbooks_on_many_scenes(seed):
    rng = np.random.default_rng(1000 + seed)
    for _ in range(15):
        height, width = random_size(rng, 64, 1600)
        lattice = lattice_of(height, width, offset=float(rng.choice([0.0, 0.5])))
        truth = truth_of(*(random_boxes(rng, int(n), height, width) for n in rng.choice([0, 1, 20, 500], 2)))
        for radius in RADII:
            found = assign_center_region(truth, lattice, radius=radius).matched_gt
            assert torch.equal(found, textbook(truth, lattice, radius=radius)), (height, width, radius)


@pytest.mark.parametrize(("size", "count"), [(1, 0), (1, 1), (1, 30), (64, 300)])
def test_assignment_is_the_textbooks_with_more_objects_than_locations(size, count):
    lattice, truth = lattice_of(size, size), truth_of(random_boxes(np.random.default_rng(count), count, size, size), [])
    for radius in (1.5, None):
        found = assign_center_region(truth, lattice, radius=radius).matched_gt
        assert torch.equal(found, textbook(truth, lattice, radius=radius))


@pytest.mark.slow
def test_assignment_is_the_textbooks_with_ten_thousand_objects():
    lattice, truth = lattice_of(400, 300), truth_of(random_boxes(np.random.default_rng(0), 10_000, 400, 300))
    for radius in (1.5, None):
        found = assign_center_region(truth, lattice, radius=radius).matched_gt
        assert torch.equal(found, textbook(truth, lattice, radius=radius))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(tied_scenes(), st.sampled_from(RADII), st.sampled_from([None, (0, math.inf), (16, 32)]))
def test_assignment_is_the_textbooks_where_points_lie_on_borders_and_areas_tie(scene, radius, one_range):
    lattice, truth = scene
    options = {"radius": radius, "ranges": [one_range or (0, 64)] * len(lattice.strides)}
    found = assign_center_region(truth, lattice, **options).matched_gt
    assert torch.equal(found, textbook(truth, lattice, **options))


def test_assignment_in_small_parts_is_the_same(monkeypatch):
    truth = truth_of(*(random_boxes(np.random.default_rng(i), 50, 200, 300) for i in range(2)))
    whole = assign_center_region(truth, lattice_of(200, 300)).matched_gt
    monkeypatch.setattr(windows, "CHUNK", 7)
    assert torch.equal(assign_center_region(truth, lattice_of(200, 300)).matched_gt, whole)


def test_ranges_are_the_papers():
    assert level_ranges(STRIDES) == [(0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)]


@pytest.mark.parametrize(
    ("side", "levels"),
    [(8, []), (40, [0]), (120, [0, 1]), (121, [1]), (240, [1, 2]), (250, [2]), (600, [3]), (1000, [4]), (3000, [4])],
)
def test_level_is_that_of_the_largest_distance(side, levels):
    """The centre lies between the points of each level: those in the region have a side at side/2 + stride/2."""
    low, high = 512 - side / 2, 512 + side / 2
    matched = assign_center_region(truth_of([[low, low, high, high]]), lattice_of(1024, 1024)).matched_gt[0]
    parts = matched.split(lattice_of(1024, 1024).level_sizes)
    assert [level for level, part in enumerate(parts) if bool((part >= 0).any())] == levels


def test_largest_distance_at_the_end_of_a_range_is_in_both_levels():
    """The one point within reach, (12, 12) of stride 8 and also of stride 24, is 20 from the far sides."""
    lattice, box = Lattice(((3, 3), (1, 1)), (8, 24)), [-8.0, -8.0, 32.0, 32.0]
    for end, on_first, on_second in ((20.0, True, True), (19.9, False, True), (20.1, True, False)):
        ranges = [(0.0, end), (end, math.inf)]
        matched = assign_center_region(truth_of([box]), lattice, radius=0.5, ranges=ranges).matched_gt[0]
        assert [bool(matched[4] == 0), bool(matched[9] == 0)] == [on_first, on_second]


def test_distance_that_is_rounded_into_the_range_is_in_it():
    """From the point (64, 64) to the left side it is 64 + 1e-7, which float32 cannot tell from 64."""
    lattice, truth = Lattice(((16, 16),), (8,), offset=0.0), truth_of([[-1e-7, 32.0, 128.0, 96.0]])
    matched = assign_center_region(truth, lattice, ranges=[(0, 64)]).matched_gt
    assert (matched[0] == 0).nonzero()[:, 0].tolist() == [16 * row + 8 for row in (7, 8, 9)]
    assert torch.equal(matched, textbook(truth, lattice, ranges=[(0, 64)]))


def test_point_at_the_radius_or_on_a_side_is_outside():
    """The centre (20, 20) is a point; its neighbours are one stride away."""
    box = [0.0, 12.0, 40.0, 28.0]  # the rows above and below lie on its top and bottom
    assert positives(assign_center_region(truth_of([box]), ONE_LEVEL, radius=1.0).matched_gt) == [[2, 2]]
    assert positives(assign_center_region(truth_of([box]), ONE_LEVEL, radius=1.01).matched_gt) == [
        [2, 1],
        [2, 2],
        [2, 3],
    ]
    assert len(positives(assign_center_region(truth_of([box]), ONE_LEVEL, radius=None).matched_gt)) == 5


def test_contested_location_goes_to_the_smaller_object_and_of_equals_to_the_first():
    small, large = [8.0, 8.0, 40.0, 32.0], [8.0, 8.0, 40.0, 40.0]
    for order, winner in (([small, large], 0), ([large, small], 1), ([large, large, small, small], 2)):
        matched = assign_center_region(truth_of(order), ONE_LEVEL).matched_gt.view(8, 8)
        assert int(matched[2, 2]) == winner


def test_object_between_the_points_has_no_location():
    matched = assign_center_region(truth_of([[5.0, 5.0, 11.0, 11.0]]), ONE_LEVEL).matched_gt
    assert matched.unique().tolist() == [BACKGROUND]


def test_images_have_their_own_objects_and_indices_count_over_the_batch():
    box = [10.0, 10, 70, 70]
    matched = assign_center_region(truth_of([], [box], [], [box]), lattice_of(96, 96)).matched_gt
    assert [row.unique().tolist() for row in matched] == [[-1], [-1, 0], [-1], [-1, 1]]
    assert torch.equal(matched[1] == 0, matched[3] == 1)


@pytest.mark.parametrize("seed", range(4))
def test_padding_is_ignored_and_leaves_the_assignment_of_the_content_as_it_was(seed):
    def assign(truth, lattice, sizes):
        return assign_center_region(truth, lattice, image_sizes=sizes).matched_gt

    check_padded(assign, textbook, seed)


def test_background_in_a_region_of_unknown_content_is_ignored_and_objects_in_it_are_not():
    box = [4.0, 4.0, 36.0, 36.0]
    plain = assign_center_region(truth_of([], [box]), ONE_LEVEL).matched_gt
    truth = truth_of([], [box], ignored=[[0, 0, 64, 20]], ignored_image=[1])
    matched = assign_center_region(truth, ONE_LEVEL).matched_gt
    assert torch.equal(matched[0], plain[0])
    assert torch.equal(matched[1] >= 0, plain[1] >= 0)
    assert torch.equal(matched[1] == IGNORED, (plain[1] == BACKGROUND) & (torch.arange(64) < 24))


@pytest.mark.parametrize("radius", [0, -1.0, math.nan])
def test_radius_that_is_not_positive_is_refused(radius):
    with pytest.raises(ValueError, match="radius: expected a number > 0, or None, got"):
        assign_center_region(truth_of([]), ONE_LEVEL, radius=radius)


def test_number_of_ranges_must_be_that_of_the_levels():
    with pytest.raises(ValueError, match="expected one for each of 1 levels, got 2"):
        assign_center_region(truth_of([]), ONE_LEVEL, ranges=[(0, 64), (64, math.inf)])
