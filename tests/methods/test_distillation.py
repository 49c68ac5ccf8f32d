"""Localization distillation against its formula written out in float64, location by location."""

import math
from types import SimpleNamespace

import pytest
import scene
import torch
from scene import LATTICE, TRUTH, truth_of, values
from test_gfl import location_channels, softmax

from focaldet.data.batching import Sample
from focaldet.methods.distillation import Distillation, TaughtCollate
from focaldet.methods.gfl import GFL
from focaldet.methods.gflv2 import GFLv2
from focaldet.methods.targets import make_targets
from focaldet.methods.tood import TOOD

SIZES = torch.tensor([[48, 64], [48, 64]])


def targets_of(method, truth=TRUTH):
    return Distillation().with_valuable(method, make_targets(method, truth, LATTICE, SIZES), truth, SIZES)


def losses_of(method, outputs, teacher, taught, truth=TRUTH):
    targets = targets_of(method, truth)
    return Distillation().losses(method, outputs, teacher, taught, targets.positives, targets.valuable)


def kl(teacher, student, temperature):
    p, s = (softmax([z / temperature for z in logits]) for logits in (teacher, student))
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, s, strict=True))


def scores(outputs, image, location):
    logits = location_channels(outputs.class_logits, image, location)
    if outputs.quality_logits is None:
        return logits
    quality = 1 / (1 + math.exp(-location_channels(outputs.quality_logits, image, location)[0]))
    joint = [quality / (1 + math.exp(-z)) for z in logits]
    return [math.log(p / (1 - p)) for p in joint]


def sides_kl(outputs, taught, image, location):
    own, theirs = (location_channels(each.box_maps, image, location) for each in (outputs, taught))
    return sum(kl(theirs[17 * s : 17 * (s + 1)], own[17 * s : 17 * (s + 1)], 10) for s in range(4)) / 4


def anchor_iou(location, box):
    (x, y), half = LATTICE.points()[location].tolist(), 4 * float(LATTICE.location_strides()[location])
    x1, y1, x2, y2 = box
    common = max(min(x + half, x2) - max(x - half, x1), 0) * max(min(y + half, y2) - max(y - half, y1), 0)
    return common / (4 * half**2 + (x2 - x1) * (y2 - y1) - common)


@pytest.mark.parametrize(("student", "teacher"), [(GFL(), GFL()), (GFLv2(), GFL()), (TOOD(), GFLv2())])
def test_losses_are_the_formula(student, teacher):
    outputs, taught = scene.outputs_of(student, 1, spread=2.0), scene.outputs_of(teacher, 2, spread=3.0)
    targets = targets_of(student)
    sides = classes = total = 0.0
    places = list(zip(targets.positives.image.tolist(), targets.positives.location.tolist(), strict=True))
    assert len(places) > 3
    for image, location in places:
        own, theirs = (scores(each, image, location) for each in (outputs, taught))
        weight = 1 / (1 + math.exp(-max(own)))
        total += weight
        sides += weight * sides_kl(outputs, taught, image, location)
        classes += kl(theirs, own, 2)
    valuable = targets.valuable
    assert valuable.gt.numel() > 10
    for image, location, gt in zip(
        *(x.tolist() for x in (valuable.image, valuable.location, valuable.gt)), strict=True
    ):
        assert (image, location) not in places
        overlap = anchor_iou(location, TRUTH.boxes_xyxy[gt].tolist())
        sides += overlap / 4 * sides_kl(outputs, taught, image, location)
    assert values(losses_of(student, outputs, teacher, taught)) == pytest.approx(
        {"teacher_sides": 0.25 * sides / total, "teacher_class": 0.125 * classes / len(places)}, rel=1e-4
    )


@pytest.mark.parametrize("method", [GFL(), GFLv2()])
def test_who_says_the_same_learns_nothing(method):
    outputs = scene.outputs_of(method, spread=3.0)
    maps = [*outputs.class_logits, *outputs.box_maps]
    losses = losses_of(method, outputs, method, outputs)
    assert values(losses) == pytest.approx({"teacher_sides": 0, "teacher_class": 0}, abs=1e-5)
    for gradient in torch.autograd.grad(sum(losses.values()), maps):
        assert float(gradient.abs().max()) < 1e-6
    other = scene.outputs_of(method, 5, spread=3.0)
    gradients = torch.autograd.grad(sum(losses_of(method, outputs, method, other).values()), maps)
    of_classes, of_boxes = (max(float(level.abs().max()) for level in part) for part in (gradients[:2], gradients[2:]))
    assert min(of_classes, of_boxes) > 1e-4
    with pytest.raises(RuntimeError, match=r"unused|not have been used"):
        torch.autograd.grad(sum(losses_of(method, outputs, method, other).values()), other.box_maps)


def test_without_objects_nothing_is_taught():
    outputs, taught = scene.outputs_of(GFL(), 1), scene.outputs_of(GFL(), 2)
    losses = losses_of(GFL(), outputs, GFL(), taught, truth_of([], [], []))
    assert values(losses) == {"teacher_sides": 0, "teacher_class": 0}
    torch.autograd.grad(sum(losses.values()), outputs.box_maps)


def test_collating_a_batch_lists_the_regions():
    net = SimpleNamespace(strides=LATTICE.strides, pad_to=1)
    sample = (torch.zeros(3, 48, 64, dtype=torch.uint8), torch.tensor([[3.0, 4, 40, 44]]), torch.tensor([1]))
    batch = TaughtCollate(GFL(), net, 0.5, Distillation())([Sample(0, *sample, torch.zeros(0, 4))])
    assert batch.targets.valuable.gt.numel() > 10
