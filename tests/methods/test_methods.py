"""Properties of every method, with every class loss."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from scene import LATTICE, NUM_CLASSES, TRUTH, assignment_of, losses_of, outputs_of, truth_of, values
from torchvision.ops import sigmoid_focal_loss

from focaldet import functional
from focaldet.boxes.iou import paired_iou
from focaldet.boxes.locations import Lattice, flatten_levels
from focaldet.engine.spec import METHODS
from focaldet.methods import normalizer
from focaldet.methods.class_loss import OF_QUALITY, ClassLoss
from focaldet.methods.positives import find_positives
from focaldet.structures import BACKGROUND, IGNORED, HeadOutputs

CASES = [(name, loss) for name in METHODS for loss in get_args(ClassLoss)]
FORMULAS = {
    "quality_focal": functional.quality_focal_loss,
    "equalized_quality": functional.quality_focal_loss,
    "varifocal": functional.varifocal_loss,
    "mal": functional.matchability_aware_loss,
    "ia_bce": functional.iou_aware_bce_loss,
}
every_method = pytest.mark.parametrize(("name", "class_loss"), CASES)


def scene_of(name, class_loss, seed=0):
    method = METHODS[name](class_loss=class_loss)
    num_anchors = method.anchors_per_location
    locations = {
        (0, 18): 0,
        (0, 19): 0,
        (0, 13): 1,
        (0, 53): 0,
        (0, 5): IGNORED,
        (1, 27): 2,
        (1, 54): 2,
        (1, 0): IGNORED,
    }
    spread = {
        (image, location * num_anchors + location % num_anchors): gt for (image, location), gt in locations.items()
    }
    return method, outputs_of(method, seed), assignment_of(spread, num_anchors)


@every_method
def test_class_term_is_the_dense_loss_of_an_independent_implementation(name, class_loss):
    method, outputs, assignment = scene_of(name, class_loss)
    found = losses_of(method, outputs, TRUTH, assignment)["class"]
    logits = flatten_levels(outputs.class_logits, NUM_CLASSES).double()
    if name == "gflv2":  # the score is the product
        quality = flatten_levels(outputs.quality_logits, 1).double()
        logits = (logits.sigmoid() * quality.sigmoid()).logit()
    positives = find_positives(TRUTH, assignment, method.locations(LATTICE))
    box_params = flatten_levels(outputs.box_maps, method.num_box_channels)[positives.image, positives.location]
    iou = paired_iou(method.decode(box_params, positives.locations)[0], positives.boxes_xyxy).double()
    if class_loss == "ia_bce":
        iou = iou.clamp(min=1e-6)  # a positive stays one, however wrong its box
    targets = torch.zeros_like(logits)
    targets[positives.image, positives.location, positives.labels] = iou if class_loss in OF_QUALITY else 1.0
    if class_loss == "bce":
        dense = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    elif class_loss in ("focal", "equalized_focal"):  # which starts as the plain one
        dense = sigmoid_focal_loss(logits, targets)
    else:
        dense = FORMULAS[class_loss](logits, targets, impl="reference")
    expected = dense[assignment.matched_gt != IGNORED].sum() / 6
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@every_method
def test_batch_without_any_object_still_trains_the_classifier(name, class_loss):
    method, outputs, _ = scene_of(name, class_loss)
    nothing = truth_of([], [], [])
    terms = losses_of(method, outputs, nothing, method.assign(nothing, LATTICE))
    assert all(value == 0 for term, value in values(terms).items() if term != "class")
    sum(terms.values()).backward()
    assert all(bool(level.grad.any()) for level in outputs.class_logits)


@every_method
def test_ignored_locations_give_no_gradient_and_positives_train_their_boxes(name, class_loss):
    method, outputs, assignment = scene_of(name, class_loss)
    sum(losses_of(method, outputs, TRUTH, assignment).values()).backward()
    class_grad, box_grad = (
        flatten_levels([level.grad for level in maps], channels)
        for maps, channels in ((outputs.class_logits, NUM_CLASSES), (outputs.box_maps, method.num_box_channels))
    )
    matched = assignment.matched_gt
    assert not class_grad[matched == IGNORED].any()
    assert bool((class_grad[matched != IGNORED] != 0).all())
    assert not box_grad[matched < 0].any()
    assert bool((box_grad[matched >= 0] != 0).any(dim=1).all())
    if outputs.quality_logits is not None:
        quality_grad = flatten_levels([level.grad for level in outputs.quality_logits], 1)
        assert bool(quality_grad[matched >= 0].all())


@every_method
def test_an_ignored_region_trains_no_background_and_leaves_the_boxes_as_they_are(name, class_loss):
    """One over half of an object, in an image of its own another one."""
    method = METHODS[name](class_loss=class_loss)
    regions = torch.tensor([[0.0, 0, 30, 48], [40, 8, 60, 40]])
    plain_truth = truth_of([[4.0, 0, 60, 44]], [2], [0])
    with_regions = replace(plain_truth, ignored_xyxy=regions, ignored_image_index=torch.tensor([0, 1]))
    terms, grads = [], []
    for truth in (plain_truth, with_regions):
        outputs, assignment = outputs_of(method, seed=3), method.assign(truth, LATTICE)
        losses = losses_of(method, outputs, truth, assignment)
        sum(losses.values()).backward()
        terms.append(values(losses))
        maps = (outputs.class_logits, NUM_CLASSES), (outputs.box_maps, method.num_box_channels)
        grads.append([flatten_levels([level.grad for level in levels], channels) for levels, channels in maps])
    plain = method.assign(plain_truth, LATTICE).matched_gt
    points = method.locations(LATTICE).points_xy
    within = torch.stack([((points >= r[:2]) & (points <= r[2:])).all(dim=1) for r in regions])
    left_alone = within & (plain < 0)
    assert bool(left_alone.any(dim=1).all())
    assert bool((within & (plain >= 0)).any())  # a positive in a region stays one
    assert torch.equal(assignment.matched_gt == IGNORED, left_alone | (plain == IGNORED))
    assert torch.equal(assignment.matched_gt >= 0, plain >= 0)
    (class_before, box_before), (class_after, box_after) = grads
    assert not class_after[left_alone].any()
    assert torch.equal(class_after[~left_alone], class_before[~left_alone])
    assert bool((class_before[left_alone & (plain == BACKGROUND)] != 0).all())
    if name != "gflv2":  # whose class loss reaches the distributions too
        assert torch.equal(box_after, box_before)
    assert all(value == terms[1][term] for term, value in terms[0].items() if term != "class")
    assert terms[1]["class"] < terms[0]["class"]


@every_method
def test_half_precision_outputs_give_float32_losses(name, class_loss):
    method, outputs, assignment = scene_of(name, class_loss)

    def rounded(maps, dtype):
        return [level.detach().bfloat16().to(dtype) for level in maps]

    def half(dtype):
        quality = None if outputs.quality_logits is None else rounded(outputs.quality_logits, dtype)
        return HeadOutputs(rounded(outputs.class_logits, dtype), rounded(outputs.box_maps, dtype), quality)

    losses = losses_of(method, half(torch.bfloat16), TRUTH, assignment)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    wide = losses_of(method, half(torch.float32), TRUTH, assignment)
    assert values(losses) == pytest.approx(values(wide), rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_own_assignment_covers_every_location_and_finds_the_objects(name):
    method, lattice = METHODS[name](), Lattice(((16, 16), (8, 8), (4, 4)), (8, 16, 32))
    truth = truth_of([[8.0, 4, 70, 60], [80, 40, 120, 90], [0, 0, 90, 60]], [2, 0, 1], [0, 0, 1])
    matched = method.assign(truth, lattice).matched_gt
    locations = method.locations(lattice)
    assert matched.shape == (2, lattice.num_locations * method.anchors_per_location)
    assert locations.points_xy.shape == (matched.shape[1], 2)
    assert {0, 1} <= set(matched[0].tolist())
    assert 2 in matched[1].tolist()
    padded = method.assign(truth, lattice, torch.tensor([[128, 128], [64, 96]])).matched_gt
    top_left = locations.points_xy - lattice.offset * locations.strides[:, None]
    outside = (top_left[:, 0] >= 96) | (top_left[:, 1] >= 64)
    assert bool((padded[1][outside] == IGNORED).all())
    assert not (padded[1][~outside] == BACKGROUND).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_losses_fall_when_the_numbers_follow_their_gradient(name):
    method, outputs, assignment = scene_of(name, METHODS[name]().class_loss)
    maps = [*outputs.class_logits, *outputs.box_maps, *(outputs.quality_logits or [])]
    optimizer = torch.optim.Adam(maps, lr=0.1)
    start = values(losses_of(method, outputs, TRUTH, assignment))
    for _ in range(150):
        optimizer.zero_grad()
        sum(losses_of(method, outputs, TRUTH, assignment).values()).backward()
        optimizer.step()
    end = values(losses_of(method, outputs, TRUTH, assignment))
    assert end["class"] < 0.1 * start["class"]
    assert end["box"] < 0.1 * start["box"]
    positives = find_positives(TRUTH, assignment, method.locations(LATTICE))
    box_params = flatten_levels(outputs.box_maps, method.num_box_channels)[positives.image, positives.location]
    boxes, _ = method.decode(box_params.detach(), positives.locations)
    assert float(paired_iou(boxes, positives.boxes_xyxy).min()) > 0.9


@every_method
def test_terms_are_divided_by_the_mean_of_all_processes(monkeypatch, name, class_loss):
    """Another process adds its share to each total; that two real ones do, a slow test shows.

    A term ``s / mean(own, other)`` has an inverse that is linear in what the other process has.
    """
    method, outputs, assignment = scene_of(name, class_loss)
    alone = values(losses_of(method, outputs, TRUTH, assignment))
    monkeypatch.setattr(normalizer, "process_count", lambda: 2)
    with_others = []
    for other in (7.0, 20.0):
        monkeypatch.setattr(normalizer, "all_reduce", lambda total, op, other=other: total.add_(other))
        with_others.append(values(losses_of(method, outputs, TRUTH, assignment)))
    for term, value in alone.items():
        first, second = (1 / terms[term] for terms in with_others)
        assert second > 1.05 * first
        assert first == pytest.approx(0.5 / value + 7 * (second - first) / 13, rel=1e-3)
