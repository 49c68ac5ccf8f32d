import itertools
from functools import partial

import numpy as np
import pytest
import torch
from scenes import lattice_of, random_boxes, random_size, truth_of

from focaldet.assign.atss import assign_atss
from focaldet.assign.center_region import assign_center_region
from focaldet.assign.claims import claim, ignore_unknown
from focaldet.assign.max_iou import assign_max_iou
from focaldet.boxes.anchors import anchor_shapes
from focaldet.structures import BACKGROUND, IGNORED, GroundTruth

CLAIMS = [  # location, object, value
    (0, 1, 0.5),
    (0, 2, 0.7),
    (0, 3, 0.7),
    (2, 1, 0.0),
    (2, 4, 0.9),
    (2, 5, 0.2),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_highest_value_has_the_location_and_of_equals_the_first_object(order):
    matched, best = torch.full((4,), BACKGROUND), torch.full((4,), -1.0)
    location, gt, value = (torch.tensor(x) for x in zip(*[CLAIMS[i] for i in [*order, 3, 4, 5]], strict=True))
    claim(matched, best, location, gt, value)
    assert matched.tolist() == [2, -1, 4, -1]
    assert best[[0, 2]].tolist() == pytest.approx([0.7, 0.9])


@pytest.mark.parametrize("parts", [(6,), (1, 5), (2, 4), (5, 1), (1, 1, 1, 1, 1, 1)])
def test_claims_may_come_in_parts(parts):
    matched, best = torch.full((4,), BACKGROUND), torch.full((4,), -1.0)
    location, gt, value = (torch.tensor(x).split(parts) for x in zip(*CLAIMS, strict=True))
    for part in zip(location, gt, value, strict=True):
        claim(matched, best, *part)
    assert matched.tolist() == [2, -1, 4, -1]


def test_no_claim_changes_nothing():
    matched, best = torch.tensor([3, BACKGROUND]), torch.tensor([0.5, -1.0])
    none = torch.tensor([], dtype=torch.int64)
    claim(matched, best, none, none, torch.tensor([]))
    assert matched.tolist() == [3, BACKGROUND]


@pytest.mark.parametrize("seed", range(6))
def test_locations_in_a_region_are_those_of_the_comparison_with_each_region(seed):
    """Regions that overlap, lie outside, are a point, or end exactly on a location."""
    rng = np.random.default_rng(seed)
    lattice = lattice_of(*random_size(rng, 1, 200), offset=(0.0, 0.5)[seed % 2])
    regions = [np.round(random_boxes(rng, count, 200, 200)) for count in (30, 0, 4)]
    regions[2][0, 2:] = regions[2][0, :2]
    index = np.repeat(np.arange(3), [len(r) for r in regions])
    truth = truth_of([], [], [], ignored=np.concatenate(regions), ignored_image=index)
    matched = torch.full((3, lattice.num_locations, 2), BACKGROUND)
    matched[:, ::5] = 7
    ignore_unknown(matched, truth, lattice, None)
    points = lattice.points()
    for image, boxes in enumerate(regions):
        boxes = torch.from_numpy(boxes)
        within = ((points[:, None] >= boxes[:, :2]) & (points[:, None] <= boxes[:, 2:])).all(dim=-1).any(dim=1)
        assert bool((matched[image, ::5] == 7).all())
        within[::5] = False
        assert torch.equal(matched[image] == IGNORED, within[:, None].expand(-1, 2))


@pytest.mark.parametrize("seed", range(4))
def test_locations_that_an_object_of_the_regions_box_would_have_are_ignored(seed):
    rng = np.random.default_rng(seed)
    lattice, boxes = lattice_of(220, 300), random_boxes(rng, 30, 220, 300)
    shapes = anchor_shapes(lattice.strides)
    objects, regions = truth_of(boxes), truth_of([], ignored=boxes, ignored_image=np.zeros(30))
    for assign in (
        assign_atss,
        assign_center_region,
        partial(assign_max_iou, shapes_px=shapes, low_quality=False),
        partial(assign_max_iou, shapes_px=shapes, positive_iou=0.5, negative_iou=0.5, low_quality=False),
    ):
        would_have = assign(objects, lattice).matched_gt >= 0
        assert would_have.any()
        assert bool((assign(regions, lattice).matched_gt[would_have] == IGNORED).all())


@pytest.mark.slow
def test_ignoring_many_regions_costs_no_matrix_of_regions_and_locations():
    lattice = lattice_of(1600, 1600)
    count = 1_000_000  # times 53,400 locations: 53 GB as a matrix of bytes
    corner = torch.rand(count, 2) * 1600
    index, none = torch.zeros(count, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    truth = GroundTruth(torch.zeros(0, 4), none, none, 1, torch.cat([corner, corner + 10], dim=1), index)
    matched = torch.full((1, lattice.num_locations, 1), BACKGROUND)
    ignore_unknown(matched, truth, lattice, None)
    assert (matched == IGNORED).all()
