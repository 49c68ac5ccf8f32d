"""The pages of ATSS and FCOS: centerness, and boxes weighted by it."""

import math

import pytest
import torch
from scene import LATTICE, TRUTH, assignment_of, losses_of, outputs_of, truth_of, values
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss

from focaldet.boxes.coding import encode_deltas, encode_distances
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import flatten_levels
from focaldet.engine.spec import METHODS
from focaldet.methods.atss import ATSS
from focaldet.methods.centerness import centerness
from focaldet.methods.positives import find_positives
from focaldet.models.postprocess import ScoreRule

LOCATIONS = {(0, 18): 0, (0, 19): 0, (0, 13): 1, (0, 53): 0, (1, 27): 2, (1, 54): 2}
CENTERED = [name for name in METHODS if name in ("atss", "fcos")]


def by_hand(point, box):
    """The centerness of a point, and of a point outside 0."""
    left, top, right, bottom = point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]
    if min(left, top, right, bottom) <= 0:
        return 0.0
    return math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))


def test_weight_of_the_box_term_is_the_authors():
    assert METHODS["fcos"]().giou_weight == 1.0
    assert METHODS["atss"]().giou_weight == 2.0


def test_centerness_is_the_papers():
    positives = find_positives(TRUTH, assignment_of(LOCATIONS), ATSS().locations(LATTICE))
    points, boxes = positives.locations.points_xy.tolist(), positives.boxes_xyxy.tolist()
    expected = [by_hand(point, box) for point, box in zip(points, boxes, strict=True)]
    assert centerness(positives).tolist() == pytest.approx(expected, rel=1e-5)
    assert len({round(value, 3) for value in expected}) > 4


@pytest.mark.parametrize("name", CENTERED)
@pytest.mark.parametrize("class_loss", ["focal", "quality_focal"])
def test_box_term_is_giou_weighted_by_centerness_or_by_the_score(name, class_loss):
    method = METHODS[name](class_loss=class_loss)
    outputs, assignment = outputs_of(method), assignment_of(LOCATIONS)
    terms = values(losses_of(method, outputs, TRUTH, assignment))
    positives = find_positives(TRUTH, assignment, method.locations(LATTICE))
    box_params = flatten_levels(outputs.box_maps, 4)[positives.image, positives.location]
    boxes, _ = method.decode(box_params.detach(), positives.locations)
    giou = generalized_box_iou_loss(boxes.double(), positives.boxes_xyxy.double())
    weight = centerness(positives)
    if class_loss == "quality_focal":
        assert "centerness" not in terms
        weight = (
            flatten_levels(outputs.class_logits, 3)[positives.image, positives.location].detach().sigmoid().amax(dim=1)
        )
    else:
        logits = flatten_levels(outputs.quality_logits, 1)[positives.image, positives.location, 0]
        assert terms["centerness"] == pytest.approx(
            float(binary_cross_entropy_with_logits(logits.detach(), weight)), rel=1e-5
        )
    expected = method.giou_weight * (giou * weight).sum() / weight.sum()
    assert terms["box"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", CENTERED)
def test_box_term_is_the_logarithm_of_the_iou_on_demand(name):
    method = METHODS[name](box_loss="log_iou")
    outputs, assignment = outputs_of(method), assignment_of(LOCATIONS)
    term = losses_of(method, outputs, TRUTH, assignment)["box"]
    positives = find_positives(TRUTH, assignment, method.locations(LATTICE))
    box_params = flatten_levels(outputs.box_maps, 4)[positives.image, positives.location]
    boxes, _ = method.decode(box_params.detach(), positives.locations)
    weight = centerness(positives)
    expected = -(weight * paired_iou(boxes, positives.boxes_xyxy).clamp(min=1e-6).log()).sum() / weight.sum()
    assert float(term.detach()) == pytest.approx(float(method.giou_weight * expected), rel=1e-4)
    term.backward()
    assert all(bool(level.grad.isfinite().all()) for level in outputs.box_maps)


@pytest.mark.parametrize("name", CENTERED)
def test_a_single_location_counts_fully_however_small_its_weight(name):
    method, truth = METHODS[name](), truth_of([[19.9, 4, 64, 44]], [0], [0])
    outputs, assignment = outputs_of(method), assignment_of({(0, 18): 0})  # centre (20, 20), 0.1 px from the left side
    positives = find_positives(truth, assignment, method.locations(LATTICE))
    assert float(centerness(positives)) < 0.06
    box_params = flatten_levels(outputs.box_maps, 4)[positives.image, positives.location]
    boxes, _ = method.decode(box_params.detach(), positives.locations)
    giou = float(generalized_box_iou_loss(boxes, positives.boxes_xyxy))
    terms = values(losses_of(method, outputs, truth, assignment))
    assert terms["box"] == pytest.approx(method.giou_weight * giou, rel=1e-4)


def test_a_box_that_overlaps_its_object_by_a_thousandth_still_learns_from_the_logarithm():
    method, truth = METHODS["fcos"](box_loss="log_iou"), truth_of([[0.0, 0, 64, 48]], [0], [0])
    outputs, assignment = outputs_of(method), assignment_of({(0, 18): 0})
    with torch.no_grad():
        outputs.box_maps[0].fill_(0.125)  # strides of 8 px: a box of 2 x 2 px inside the object
    term = losses_of(method, outputs, truth, assignment)["box"]
    assert float(term.detach()) == pytest.approx(-math.log(4 / (64 * 48)), rel=1e-4)
    term.backward()
    assert bool(outputs.box_maps[0].grad[0, :, 2, 2].all())


@pytest.mark.parametrize("name", CENTERED)
def test_score_rule_is_of_the_branch_that_the_head_has(name):
    assert METHODS[name]().score_rule == ScoreRule("sqrt", "score")
    assert METHODS[name](score="product", threshold_on="class").score_rule == ScoreRule("product", "class")
    assert METHODS[name](class_loss="quality_focal").score_rule == ScoreRule()


def test_atss_reads_deltas_from_one_square_anchor_of_eight_strides():
    method = ATSS()
    locations = method.locations(LATTICE)
    sides = locations.anchors_xyxy[:, 2:] - locations.anchors_xyxy[:, :2]
    assert torch.equal(sides, (8 * locations.strides)[:, None].expand(-1, 2))
    boxes = torch.tensor([[3.0, 4, 40, 44]]).expand(locations.strides.numel(), 4)
    deltas = encode_deltas(locations.anchors_xyxy, boxes, (0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(method.decode(deltas, locations)[0], boxes)


@pytest.mark.skipif("fcos" not in METHODS, reason="FCOS is not there")
@pytest.mark.parametrize("distances", ["exp", "relu"])
@pytest.mark.parametrize("unit", ["stride", "px"])
def test_fcos_reads_distances_in_its_unit(distances, unit):
    method = METHODS["fcos"](distances=distances, unit=unit)
    locations = method.locations(LATTICE)
    inside = locations[torch.tensor([18, 27, 53])]
    boxes = torch.tensor([[3.0, 4, 40, 44]]).expand(3, 4)
    box_params = encode_distances(inside.points_xy, inside.strides, boxes)
    assert bool((box_params > 0).all())
    if unit == "px":
        box_params = box_params * inside.strides[:, None]
    torch.testing.assert_close(method.decode(box_params.log() if distances == "exp" else box_params, inside)[0], boxes)
