import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import STRIDES, by_image, check_padded, lattice_of, random_boxes, random_size, tied_scenes, truth_of
from textbook import max_iou
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from focaldet.assign.max_iou import assign_max_iou
from focaldet.boxes.anchors import anchor_shapes, grid_anchors
from focaldet.boxes.locations import Lattice
from focaldet.structures import BACKGROUND, IGNORED

SHAPES = anchor_shapes(STRIDES)
ONE_LEVEL = Lattice(((8, 8),), (8,))
SQUARE = anchor_shapes((8,), scales=(4,), ratios=(1,))  # one anchor of 32 x 32 a location


def textbook(truth, lattice, shapes_px=SHAPES, **options):
    return by_image(max_iou, truth, lattice, shapes_px=shapes_px.numpy(), **options)


def torchvisions(truth, lattice, shapes_px=SHAPES, positive_iou=0.5, negative_iou=0.4, low_quality=True):
    """For images with objects that all are overlapped by some anchor."""
    anchors, matcher = grid_anchors(lattice, shapes_px), Matcher(positive_iou, negative_iou, low_quality)
    rows = []
    for image in range(truth.num_images):
        of_image = (truth.image_index == image).nonzero()[:, 0]
        matched = matcher(box_iou(truth.boxes_xyxy[of_image], anchors))
        rows.append(torch.where(matched >= 0, matched + of_image[0], matched))
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(16))
def test_assignment_is_the_textbooks_on_random_batches(seed):
    rng = np.random.default_rng(seed)
    height, width = random_size(rng, 64, 500)
    lattice = lattice_of(height, width, offset=(0.0, 0.5)[seed % 2])
    shapes = anchor_shapes(STRIDES, whole_px=seed % 4 == 0)
    truth = truth_of(*(random_boxes(rng, count, height, width) for count in rng.choice([0, 1, 3, 40], 3)))
    for low_quality in (True, False):
        found = assign_max_iou(truth, lattice, shapes, low_quality=low_quality).matched_gt
        assert torch.equal(found, textbook(truth, lattice, shapes, low_quality=low_quality))


@pytest.mark.parametrize(
    ("height", "width", "count", "positive_iou", "negative_iou"),
    [(1600, 1211, 8, 0.5, 0.4), (64, 1600, 50, 0.7, 0.3), (130, 200, 200, 0.5, 0.4), (100, 150, 50, 0.5, 0.5)],
)
def test_assignment_is_that_of_torchvisions_matcher(height, width, count, positive_iou, negative_iou):
    rng = np.random.default_rng(count)
    truth, lattice = truth_of(*(random_boxes(rng, count, height, width) for _ in range(2))), lattice_of(height, width)
    thresholds = {"positive_iou": positive_iou, "negative_iou": negative_iou}
    found = assign_max_iou(truth, lattice, SHAPES, **thresholds).matched_gt
    assert (found >= 0).sum() > count  # the case has objects to find
    assert torch.equal(found, torchvisions(truth, lattice, **thresholds))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_that_of_torchvisions_matcher_on_many_scenes(seed):
    rng = np.random.default_rng(1000 + seed)
    for _ in range(8):
        height, width = random_size(rng, 64, 1600)
        lattice = lattice_of(height, width, offset=float(rng.choice([0.0, 0.5])))
        shapes = anchor_shapes(STRIDES, whole_px=bool(rng.integers(2)))
        truth = truth_of(*(random_boxes(rng, int(n), height, width) for n in rng.choice([1, 5, 50], 2)))
        found = assign_max_iou(truth, lattice, shapes).matched_gt
        assert torch.equal(found, torchvisions(truth, lattice, shapes)), (height, width)


@pytest.mark.slow
def test_assignment_is_that_of_torchvisions_matcher_with_many_objects():
    truth, lattice = truth_of(random_boxes(np.random.default_rng(3), 500, 608, 800)), lattice_of(608, 800)
    assert torch.equal(assign_max_iou(truth, lattice, SHAPES).matched_gt, torchvisions(truth, lattice))


@pytest.mark.parametrize(("size", "count"), [(1, 0), (1, 1), (1, 30), (64, 300)])
def test_assignment_is_the_textbooks_with_more_objects_than_locations(size, count):
    lattice, truth = lattice_of(size, size), truth_of(random_boxes(np.random.default_rng(count), count, size, size), [])
    assert torch.equal(assign_max_iou(truth, lattice, SHAPES).matched_gt, textbook(truth, lattice))


@pytest.mark.slow
def test_assignment_is_the_textbooks_with_ten_thousand_objects():
    lattice, truth = lattice_of(256, 200), truth_of(random_boxes(np.random.default_rng(0), 10_000, 256, 200))
    assert torch.equal(assign_max_iou(truth, lattice, SHAPES).matched_gt, textbook(truth, lattice))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(tied_scenes(), st.sampled_from([(4.0,), (0.25,), (4.0, 5.04, 6.35), (1.0, 20.0)]), st.booleans())
def test_assignment_is_the_textbooks_where_overlaps_tie(scene, scales, low_quality):
    """Small anchors leave gaps, in which an object is overlapped by none, or touched by the one beside it."""
    lattice, truth = scene
    shapes = anchor_shapes(lattice.strides, scales=scales)
    found = assign_max_iou(truth, lattice, shapes, low_quality=low_quality).matched_gt
    assert torch.equal(found, textbook(truth, lattice, shapes, low_quality=low_quality))


@pytest.mark.parametrize("gap", [-1e-2, -1e-4, -1e-6, 0.0, 1e-6, 1e-4, 1e-2])
def test_object_that_an_anchor_just_touches_is_found_as_by_the_textbook(gap):
    """Far to the right of the last anchor, whose right side is at x = 76."""
    truth = truth_of([[76 + gap, 20, 90, 40], [76 + gap, 60, 176, 61]])
    assert torch.equal(assign_max_iou(truth, ONE_LEVEL, SQUARE).matched_gt, textbook(truth, ONE_LEVEL, SQUARE))


def test_assignment_in_small_parts_is_the_same(monkeypatch):
    truth = truth_of(*(random_boxes(np.random.default_rng(i), 20, 100, 150) for i in range(2)))
    lattice = lattice_of(100, 150)
    whole = assign_max_iou(truth, lattice, SHAPES).matched_gt
    for module in ("windows", "max_iou"):
        monkeypatch.setattr(f"focaldet.assign.{module}.CHUNK", 100)
    assert torch.equal(assign_max_iou(truth, lattice, SHAPES).matched_gt, whole)


def test_thresholds_belong_to_the_better_side():
    """One anchor, 32 x 32; objects of its width and a part of its height, so that the IoU is that part exactly."""
    lattice = Lattice(((1, 1),), (8,))
    for height, expected in ((16.0, 0), (15.9, IGNORED), (8.0, IGNORED), (7.9, BACKGROUND)):
        truth = truth_of([[-12.0, -12.0, 20.0, -12.0 + height]])
        options = {"positive_iou": 0.5, "negative_iou": 0.25, "low_quality": False}
        assert assign_max_iou(truth, lattice, SQUARE, **options).matched_gt.tolist() == [[expected]]
        assert assign_max_iou(truth, lattice, SQUARE).matched_gt.tolist() == [[0]]


@pytest.mark.parametrize("side", [1.0, 300.0])
def test_all_anchors_that_tie_for_an_objects_best_are_positive(side):
    """The tiny object lies in, the large one around, as many anchors as have the same overlap with it."""
    box = [32 - side / 2, 32 - side / 2, 32 + side / 2, 32 + side / 2]
    matched = assign_max_iou(truth_of([box]), ONE_LEVEL, SQUARE).matched_gt
    x, y = ONE_LEVEL.points().T
    same = ((x - 32).abs() <= 15.5) & ((y - 32).abs() <= 15.5)
    assert torch.equal(matched[0] == 0, same if side == 1 else torch.ones(64, dtype=torch.bool))
    alone = assign_max_iou(truth_of([box]), ONE_LEVEL, SQUARE, low_quality=False).matched_gt
    assert alone.unique().tolist() == [BACKGROUND]


def test_best_anchor_of_an_object_belongs_to_the_object_that_it_overlaps_most():
    tiny, large = [35.0, 35.0, 37.0, 37.0], [20.0, 20.0, 52.0, 52.0]  # large is the anchor of the location (36, 36)
    for order, winner in (([tiny, large], 1), ([large, tiny], 0)):
        matched = assign_max_iou(truth_of(order), ONE_LEVEL, SQUARE).matched_gt.view(8, 8)
        assert int(matched[4, 4]) == winner
        # (28, 28) contains the tiny object as well, and overlaps the large one by 24 x 24 / (2 x 32 x 32 - 24 x 24)
        assert int(matched[3, 3]) == winner
    assert (assign_max_iou(truth_of([tiny]), ONE_LEVEL, SQUARE).matched_gt.view(8, 8)[3:6, 3:6] == 0).all()


def test_of_equal_objects_the_first_has_the_anchors():
    box = [20.0, 20, 84, 84]
    matched = assign_max_iou(truth_of([box, box, box]), lattice_of(128, 128), SHAPES).matched_gt
    assert matched.unique().tolist() == [IGNORED, BACKGROUND, 0]


@pytest.mark.parametrize("box", [[500.0, 0, 600, 50], [10.0, 10, 10, 30], [-90.0, -90, -60, -60]])
def test_object_that_no_anchor_overlaps_has_none(box):
    matched = assign_max_iou(truth_of([box]), ONE_LEVEL, SQUARE).matched_gt
    assert matched.unique().tolist() == [BACKGROUND]


def test_images_have_their_own_objects_and_indices_count_over_the_batch():
    box = [10.0, 10, 70, 70]
    matched = assign_max_iou(truth_of([], [box], [], [box]), lattice_of(96, 96), SHAPES).matched_gt
    assert matched.shape == (4, 9 * lattice_of(96, 96).num_locations)
    assert [row.unique().tolist() for row in matched] == [[-1], [-2, -1, 0], [-1], [-2, -1, 1]]
    assert torch.equal(matched[1] == 0, matched[3] == 1)


@pytest.mark.parametrize("seed", range(4))
def test_padding_is_ignored_and_leaves_the_assignment_of_the_content_as_it_was(seed):
    """The best anchor of an object must be one of its image, though one of the padding may overlap it more."""

    def assign(truth, lattice, sizes):
        return assign_max_iou(truth, lattice, SHAPES, image_sizes=sizes).matched_gt

    check_padded(assign, textbook, seed, num_anchors=9)


def test_background_at_a_location_in_a_region_of_unknown_content_is_ignored_and_objects_are_not():
    box, shapes = [16.0, 16.0, 48.0, 48.0], anchor_shapes((8,), scales=(4,), ratios=(0.5, 1, 2))
    plain = assign_max_iou(truth_of([], [box]), ONE_LEVEL, shapes).matched_gt
    truth = truth_of([], [box], ignored=[[0, 0, 64, 36]], ignored_image=[1])
    matched = assign_max_iou(truth, ONE_LEVEL, shapes).matched_gt
    assert torch.equal(matched[0], plain[0])
    in_region = (torch.arange(64) < 40).repeat_interleave(3)  # the first five rows, y = 4 to 36
    assert (in_region & (plain[1] >= 0)).any()
    assert torch.equal(matched[1], torch.where(in_region & (plain[1] == BACKGROUND), IGNORED, plain[1]))


@pytest.mark.parametrize(("positive_iou", "negative_iou"), [(0.4, 0.5), (0.5, 0.0), (float("nan"), 0.4)])
def test_thresholds_in_the_wrong_order_are_refused(positive_iou, negative_iou):
    with pytest.raises(ValueError, match="expected 0 < negative_iou <= positive_iou"):
        assign_max_iou(truth_of([]), ONE_LEVEL, SQUARE, positive_iou=positive_iou, negative_iou=negative_iou)
