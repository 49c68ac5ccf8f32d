import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import by_image, lattice_of, random_boxes, random_size, tied_scenes, truth_of
from textbook import atss

from focaldet.assign.atss import assign_atss
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, IGNORED


def textbook(truth, lattice, **options):
    return by_image(atss, truth, lattice, **options)


@pytest.mark.parametrize("seed", range(24))
def test_assignment_is_the_textbooks_on_random_batches(seed):
    rng = np.random.default_rng(seed)
    height, width = random_size(rng, 64, 500)
    lattice = lattice_of(height, width, offset=(0.0, 0.5)[seed % 2])
    counts = rng.choice([0, 1, 3, 40], 3)
    truth = truth_of(*(random_boxes(rng, count, height, width) for count in counts))
    assert torch.equal(assign_atss(truth, lattice).matched_gt, textbook(truth, lattice))


@pytest.mark.parametrize(("height", "width", "count"), [(1600, 1211, 60), (64, 1600, 100), (416, 500, 500)])
def test_assignment_is_the_textbooks_on_large_scenes(height, width, count):
    truth = truth_of(random_boxes(np.random.default_rng(count), count, height, width))
    lattice = lattice_of(height, width)
    expected = textbook(truth, lattice)
    assert (expected >= 0).sum() > count  # the case has objects to find
    assert torch.equal(assign_atss(truth, lattice).matched_gt, expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_assignment_is_the_textbooks_on_many_scenes(seed):
    rng = np.random.default_rng(1000 + seed)
    for _ in range(40):
        height, width = random_size(rng, 64, 1600)
        lattice = lattice_of(height, width, offset=float(rng.choice([0.0, 0.5])))
        truth = truth_of(*(random_boxes(rng, int(n), height, width) for n in rng.integers(0, 60, 2)))
        assert torch.equal(assign_atss(truth, lattice).matched_gt, textbook(truth, lattice)), (height, width)


@pytest.mark.parametrize(("size", "count"), [(1, 0), (1, 1), (1, 30), (64, 300)])
def test_assignment_is_the_textbooks_with_more_objects_than_locations(size, count):
    lattice, truth = lattice_of(size, size), truth_of(random_boxes(np.random.default_rng(count), count, size, size), [])
    assert torch.equal(assign_atss(truth, lattice).matched_gt, textbook(truth, lattice))


@pytest.mark.slow
def test_assignment_is_the_textbooks_with_ten_thousand_objects():
    lattice, truth = lattice_of(256, 200), truth_of(random_boxes(np.random.default_rng(0), 10_000, 256, 200))
    assert torch.equal(assign_atss(truth, lattice).matched_gt, textbook(truth, lattice))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(tied_scenes(), st.sampled_from([1, 2, 4, 9, 10, 16, 30]))
def test_assignment_is_the_textbooks_where_distances_and_overlaps_tie(scene, top_k):
    lattice, truth = scene
    found = assign_atss(truth, lattice, top_k=top_k).matched_gt
    assert torch.equal(found, textbook(truth, lattice, top_k=top_k))


@pytest.mark.parametrize("anchor_scale", [1.0, 3.0, 4.0])
def test_side_of_the_anchor_is_an_option(anchor_scale):
    truth, lattice = truth_of(random_boxes(np.random.default_rng(5), 30, 200, 300)), lattice_of(200, 300)
    expected = textbook(truth, lattice, anchor_scale=anchor_scale)
    assert torch.equal(assign_atss(truth, lattice, anchor_scale=anchor_scale).matched_gt, expected)


def test_of_equal_objects_the_first_has_the_locations():
    box = [20.0, 20, 84, 84]
    matched = assign_atss(truth_of([box, box, box]), lattice_of(128, 128)).matched_gt
    assert matched.unique().tolist() == [BACKGROUND, 0]


def test_of_locations_equally_far_the_lower_index_is_nearer():
    """The centre lies between four locations of one level, and one location is asked for."""
    matched = assign_atss(truth_of([[0.0, 0, 64, 64]]), Lattice(((8, 8),), (8,)), top_k=1).matched_gt
    assert (matched[0] == 0).nonzero()[:, 0].tolist() == [3 * 8 + 3]


@pytest.mark.parametrize("top_k", [3, 4, 5, 7, 9])
def test_candidates_that_all_overlap_alike_are_all_positive(top_k):
    """Every anchor contains every object, so the threshold is the mean, which is each IoU."""
    lattice = Lattice(((8, 8),), (8,))
    for side in np.linspace(25, 40, 40):
        box = [32 - side / 2, 32 - side / 2, 32 + side / 2, 32 + side / 2]
        matched = assign_atss(truth_of([box]), lattice, top_k=top_k, anchor_scale=32.0).matched_gt
        assert int((matched == 0).sum()) == top_k


@pytest.mark.parametrize(("distance_px", "num_pos"), [(0.02, 9), (0.005, 1)])
def test_location_nearer_to_a_side_than_the_margin_is_not_inside(distance_px, num_pos):
    """All 3 x 3 candidates overlap alike; the outer eight are this far inside the object."""
    low, high = 28 - distance_px, 44 + distance_px
    truth, lattice = truth_of([[low, low, high, high]]), Lattice(((8, 8),), (8,))
    assert int((assign_atss(truth, lattice, anchor_scale=32.0).matched_gt == 0).sum()) == num_pos


def test_contested_location_goes_to_the_object_that_it_overlaps_more():
    anchor_like, large = [32.0, 32, 96, 96], [16.0, 16, 112, 112]
    lattice = lattice_of(128, 128)
    alone = assign_atss(truth_of([large]), lattice).matched_gt
    for order, small_index in (([large, anchor_like], 1), ([anchor_like, large], 0)):
        matched = assign_atss(truth_of(order), lattice).matched_gt
        location = 7 * 16 + 7  # stride 8, centre (60, 60): a candidate of both
        assert int(matched[0, location]) == small_index
    assert int((alone >= 0).sum()) > 0


def test_image_without_objects_is_background_and_indices_count_over_the_batch():
    boxes = [[10.0, 10, 70, 70]]
    matched = assign_atss(truth_of([], boxes, [], boxes), lattice_of(96, 96)).matched_gt
    assert [row.unique().tolist() for row in matched] == [[-1], [-1, 0], [-1], [-1, 1]]
    assert torch.equal(matched[1] == 0, matched[3] == 1)


def test_batch_without_any_object_is_background():
    matched = assign_atss(truth_of([], []), lattice_of(40, 50)).matched_gt
    assert matched.shape == (2, lattice_of(40, 50).num_locations)
    assert matched.dtype == torch.int64
    assert bool((matched == BACKGROUND).all())


def test_locations_of_the_padding_are_ignored_and_the_others_are_not():
    lattice = lattice_of(128, 128)
    sizes = torch.tensor([[128, 128], [40, 100]])
    matched = assign_atss(truth_of([[8.0, 8, 72, 72]], [[8.0, 8, 72, 36]]), lattice, image_sizes=sizes).matched_gt
    assert torch.equal(matched == IGNORED, ~lattice.inside(sizes))
    assert (matched[1] == 1).any()


@pytest.mark.parametrize("seed", range(12))
def test_padding_leaves_the_assignment_of_the_content_as_it_was(seed):
    """Images from slivers to squares, padded to the largest height and width among them."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(0, math.log(400), (4, 2))).astype(int).clip(1)
    images = [random_boxes(rng, rng.choice([1, 20]), height, width) for height, width in sizes]
    height, width = sizes.max(axis=0)
    padded = lattice_of(height, width)
    sizes = torch.from_numpy(sizes)
    for top_k in (1, 9, 20):
        matched = assign_atss(truth_of(*images), padded, top_k=top_k, image_sizes=sizes).matched_gt
        first = 0
        for row, inside, boxes, size in zip(matched, padded.inside(sizes), images, sizes.tolist(), strict=True):
            alone = textbook(truth_of(boxes), lattice_of(*size), top_k=top_k)[0]
            assert torch.equal(row[inside], torch.where(alone >= 0, alone + first, alone))
            first += len(boxes)


def test_background_in_a_region_of_unknown_content_is_ignored_and_objects_in_it_are_not():
    lattice = lattice_of(128, 128)
    box, region = [20.0, 20, 84, 84], [12.0, 12, 60, 60]
    plain = assign_atss(truth_of([box], [box]), lattice).matched_gt
    truth = truth_of([box], [box], ignored=[region, [60.0, 60, 61, 61], [200.0, 0, 300, 9]], ignored_image=[1, 1, 0])
    matched = assign_atss(truth, lattice).matched_gt
    assert torch.equal(matched[0], plain[0])
    x, y = lattice.points().T
    within = (x >= 12) & (x <= 60) & (y >= 12) & (y <= 60)  # the border belongs to the region
    assert torch.equal(matched[1] == IGNORED, within & (plain[1] == BACKGROUND))
    assert torch.equal(matched[1] >= 0, plain[1] >= 0)
    assert (within & (plain[1] >= 0)).any()


def test_order_of_the_objects_does_not_change_who_is_positive():
    boxes = random_boxes(np.random.default_rng(9), 40, 300, 300)
    boxes = np.unique(boxes, axis=0)
    lattice, order = lattice_of(300, 300), np.random.default_rng(1).permutation(len(boxes))
    forward = assign_atss(truth_of(boxes), lattice).matched_gt >= 0
    shuffled = assign_atss(truth_of(boxes[order]), lattice).matched_gt >= 0
    assert torch.equal(forward, shuffled)
