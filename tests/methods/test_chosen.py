"""The pages of TOOD and RTMDet against their formulas written out in float64, location by location."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scene
import torch
from scene import LATTICE, NUM_CLASSES, TRUTH, truth_of, values
from test_gfl import NUM_BINS, location_channels, overlaps, softmax

from assign.scenes import lattice_of, random_boxes, random_size
from assign.textbook import soft_labels, task_aligned
from focaldet.assign.task_aligned import dynamic_k
from focaldet.methods import targets
from focaldet.methods.positives import as_positives
from focaldet.methods.rtmdet import RTMDet
from focaldet.methods.tood import TOOD
from focaldet.structures import BACKGROUND, Assignment, GroundTruth


def aligned(probabilities, overlap, labels, boxes, level_shapes, strides):
    return task_aligned(probabilities[:, labels] * overlap**6, overlap, boxes, level_shapes, strides)


TEXTBOOK = {TOOD: aligned, RTMDet: soft_labels}
both = pytest.mark.parametrize("kind", TEXTBOOK)


def losses_of(outputs, truth, method, lattice=LATTICE):
    found = method.candidates(truth, lattice)
    candidates = as_positives(truth, found, method.locations(lattice), lattice)
    return method.losses_of_candidates(outputs, found.unmatched, candidates)


def plain_losses(outputs, truth, textbook):
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
        boxes_of_image, labels = truth.boxes_xyxy[own].numpy(), truth.labels[own].numpy()
        matched, targets = textbook(
            np.array(probabilities), overlap, labels, boxes_of_image, LATTICE.level_shapes, LATTICE.strides
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


@both
@pytest.mark.parametrize("seed", range(6))
def test_losses_are_the_formula(kind, seed):
    outputs = scene.outputs_of(kind(), seed, spread=0.5)
    expected = plain_losses(outputs, TRUTH, TEXTBOOK[kind])
    assert values(losses_of(outputs, TRUTH, kind())) == pytest.approx(expected, rel=1e-4)


@both
def test_what_has_no_object_is_background_alone(kind):
    outputs = scene.outputs_of(kind())
    losses = values(losses_of(outputs, truth_of([], [], []), kind()))
    assert losses["class"] > 0
    assert losses["box"] == losses["distribution"] == 0


@both
def test_the_choice_and_the_target_have_no_gradient_and_each_object_pulls_on_its_positives_alone(kind):
    outputs = scene.outputs_of(kind())
    losses = losses_of(outputs, TRUTH, kind())
    sum((losses["box"], losses["distribution"])).backward()
    assert all(level.grad is None for level in outputs.class_logits)
    taught = sum(int((level.grad != 0).any(dim=1).sum()) for level in outputs.box_maps)
    assert 3 < taught <= 3 * 13


def test_at_first_the_losses_of_tood_are_gfls():
    method = TOOD()
    outputs = scene.outputs_of(method)
    assignment = method.assign(TRUTH, LATTICE)
    assert isinstance(assignment, Assignment)
    expected = super(TOOD, method).losses
    assert values(scene.losses_of(method, outputs, TRUTH, assignment)) == values(
        expected(outputs, assignment, scene.find_positives(TRUTH, assignment, method.locations(LATTICE)))
    )
    assert method.warm_up == pytest.approx(4 / 12)


def test_rtmdet_chooses_from_the_first_step_on():
    method, sizes = RTMDet(), torch.tensor([[48, 64], [48, 64]])
    outputs = scene.outputs_of(method)
    made = targets.make_targets(method, TRUTH, LATTICE, sizes)
    assert values(targets.losses_of(method, outputs, made, 0.0)) == values(losses_of(outputs, TRUTH, method))


def test_an_object_without_a_location_inside_is_counted_as_one_that_nothing_learns():
    """The second lies between the locations; for the others ATSS finds none here, but predictions choose one."""
    truth = truth_of([[3.0, 4, 40, 44], [5, 5, 7, 7], [9, 9, 13, 13]], [2, 0, 1], [0, 0, 1])
    made = targets.make_targets(RTMDet(), truth, LATTICE, torch.tensor([[48, 64], [48, 64]]))
    assert made.positives.gt.numel() == 0
    assert made.counts.unmatched == 1


@both
@pytest.mark.parametrize("class_loss", ["bce", "focal", "quality_focal"])
def test_every_class_loss_has_a_gradient(kind, class_loss):
    method = kind(class_loss=class_loss)
    outputs = scene.outputs_of(method)
    sum(losses_of(outputs, TRUTH, method).values()).backward()
    assert all(bool(level.grad.isfinite().all()) and level.shape[1] == NUM_CLASSES for level in outputs.class_logits)
    assert any(torch.any(level.grad != 0) for level in outputs.box_maps)


@pytest.mark.parametrize("seed", range(24))
def test_soft_labels_are_the_textbooks_on_random_batches(seed):
    rng = np.random.default_rng(seed)
    height, width = random_size(rng, 32, 300)
    lattice, method, num_classes = lattice_of(height, width), RTMDet(), 3
    counts = [int(n) for n in rng.choice([0, 1, 3, 20], 3)]
    boxes = np.concatenate([random_boxes(rng, count, height, width).reshape(-1, 4) for count in counts])
    index, labels = torch.arange(3).repeat_interleave(torch.tensor(counts)), rng.integers(num_classes, size=len(boxes))
    truth = GroundTruth(
        torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(labels), index, 3, torch.zeros(0, 4), index[:0]
    )
    maps = [torch.from_numpy(rng.normal(size=(3, num_classes, *s)).astype(np.float32)) for s in lattice.level_shapes]
    overlap = (rng.uniform(size=(3, lattice.num_locations, len(boxes))) ** rng.uniform(0.5, 8)).astype(np.float32)

    found = method.candidates(truth, lattice)
    candidates = as_positives(truth, found, method.locations(lattice), lattice)
    iou = torch.from_numpy(overlap)[found.image, found.location, found.gt]
    chosen, target = method.choose(maps, found, candidates, iou)
    matched, quality = found.unmatched.matched_gt.clone(), torch.zeros(3, lattice.num_locations)
    place = found.image[chosen], found.location[chosen]
    assert (matched[place] == BACKGROUND).all()
    matched[place], quality[place] = found.gt[chosen], target

    logits = torch.cat([level.flatten(2) for level in maps], dim=2).double()
    for image, first in enumerate(np.cumsum([0, *counts[:-1]])):
        own = slice(first, first + counts[image])
        expected, expected_quality = soft_labels(
            logits[image].sigmoid().T.numpy(),
            overlap[image, :, own].astype(np.float64),
            labels[own],
            truth.boxes_xyxy[own].numpy(),
            lattice.level_shapes,
            lattice.strides,
        )
        assert matched[image].tolist() == np.where(expected >= 0, expected + first, expected).tolist()
        assert quality[image].tolist() == expected_quality.tolist()


@pytest.mark.parametrize("n", range(1, 13))
def test_the_number_of_positives_is_that_of_the_exact_sum(n):
    """13 times the nearest float to n / 13 is n or a little less; a sum of floats may say otherwise."""
    part = torch.tensor(n / 13)
    gt, exact = torch.zeros(20, dtype=torch.int64), 13 * Fraction(float(part))
    assert dynamic_k(gt, part.expand(20), 13).tolist() == [max(1, int(exact))] * 20
