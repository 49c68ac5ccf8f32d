"""The TOOD page against its formula written out in float64, location by location."""

import math

import numpy as np
import pytest
import scene
import torch
from scene import LATTICE, NUM_CLASSES, TRUTH, truth_of, values
from test_gfl import NUM_BINS, location_channels, overlaps, softmax

from assign.textbook import task_aligned
from focaldet.methods.positives import as_positives
from focaldet.methods.tood import TOOD
from focaldet.structures import BACKGROUND, Assignment

METHOD = TOOD()


def losses_of(outputs, truth, method=METHOD, lattice=LATTICE):
    found = method.candidates(truth, lattice)
    candidates = as_positives(truth, found, method.locations(lattice), lattice)
    return method.losses_of_candidates(outputs, found.unmatched, candidates)


def plain_losses(outputs, truth):
    """The three terms by loops over locations, classes and sides."""
    points, strides = LATTICE.points().double().tolist(), LATTICE.location_strides().tolist()
    num_locations, num_gt = LATTICE.num_locations, truth.labels.numel()
    class_sum = giou_sum = distribution_sum = target_sum = 0.0
    for image in range(truth.num_images):
        own = [g for g in range(num_gt) if truth.image_index[g] == image]
        probabilities, boxes, sides = [], [], []
        for location in range(num_locations):
            logits = location_channels(outputs.class_logits, image, location)
            probabilities.append([1 / (1 + math.exp(-z)) for z in logits])
            numbers = location_channels(outputs.box_maps, image, location)
            sides.append([softmax(numbers[NUM_BINS * s : NUM_BINS * (s + 1)]) for s in range(4)])
            left, top, right, bottom = (
                strides[location] * sum(n * p for n, p in enumerate(side)) for side in sides[-1]
            )
            x, y = points[location]
            boxes.append([x - left, y - top, x + right, y + bottom])
        truths = truth.boxes_xyxy[own].double().tolist()
        overlap = np.array([[overlaps(box, other)[0] for other in truths] for box in boxes]).reshape(-1, len(own))
        score = np.array([[p[truth.labels[g]] for g in own] for p in probabilities]).reshape(-1, len(own))
        matched, targets = task_aligned(
            score * overlap**6, overlap, truth.boxes_xyxy[own].numpy(), LATTICE.level_shapes, LATTICE.strides
        )
        for location in range(num_locations):
            gt, target = int(matched[location]), float(targets[location])
            for c, p in enumerate(probabilities[location]):
                y = target if gt != BACKGROUND and truth.labels[own[gt]] == c else 0.0
                class_sum -= abs(y - p) ** 2 * ((1 - y) * math.log(1 - p) + y * math.log(p))
            if gt == BACKGROUND:
                continue
            target_sum += target
            giou_sum += target * (1 - overlaps(boxes[location], truths[gt])[1])
            (x, y), (x1, y1, x2, y2) = points[location], truths[gt]
            for side, distance in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                place = min(max(distance / strides[location], 0), NUM_BINS - 1 - 0.1)
                low = int(place)
                p = sides[location][side]
                distribution_sum -= target * (
                    (low + 1 - place) * math.log(p[low]) + (place - low) * math.log(p[low + 1])
                )
    return {
        "class": class_sum / max(target_sum, 1),
        "box": 2 * giou_sum / target_sum,
        "distribution": distribution_sum / 16 / target_sum,
    }


@pytest.mark.parametrize("seed", range(6))
def test_losses_are_the_formula(seed):
    outputs = scene.outputs_of(METHOD, seed, spread=0.5)
    assert values(losses_of(outputs, TRUTH)) == pytest.approx(plain_losses(outputs, TRUTH), rel=1e-4)


def test_what_has_no_object_is_background_alone():
    outputs = scene.outputs_of(METHOD)
    losses = values(losses_of(outputs, truth_of([], [], [])))
    assert losses["class"] > 0
    assert losses["box"] == losses["distribution"] == 0


def test_the_choice_and_the_target_have_no_gradient_and_each_object_pulls_on_its_positives_alone():
    outputs = scene.outputs_of(METHOD)
    losses = losses_of(outputs, TRUTH)
    sum((losses["box"], losses["distribution"])).backward()
    assert all(level.grad is None for level in outputs.class_logits)
    taught = sum(int((level.grad != 0).any(dim=1).sum()) for level in outputs.box_maps)
    assert 3 < taught <= 3 * METHOD.num_positives


def test_at_first_the_losses_are_gfls():
    outputs = scene.outputs_of(METHOD)
    assignment = METHOD.assign(TRUTH, LATTICE)
    assert isinstance(assignment, Assignment)
    expected = super(TOOD, METHOD).losses
    assert values(scene.losses_of(METHOD, outputs, TRUTH, assignment)) == values(
        expected(outputs, assignment, scene.find_positives(TRUTH, assignment, METHOD.locations(LATTICE)))
    )
    assert METHOD.warm_up == pytest.approx(4 / 12)


@pytest.mark.parametrize("class_loss", ["bce", "focal", "quality_focal"])
def test_every_class_loss_has_a_gradient(class_loss):
    outputs = scene.outputs_of(TOOD(class_loss=class_loss))
    sum(losses_of(outputs, TRUTH, TOOD(class_loss=class_loss)).values()).backward()
    assert all(bool(level.grad.isfinite().all()) and level.shape[1] == NUM_CLASSES for level in outputs.class_logits)
    assert all(torch.any(level.grad != 0) for level in outputs.box_maps)
