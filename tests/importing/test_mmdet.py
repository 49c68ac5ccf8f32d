"""Losses, gradients and detections equal those of mmdetection's own heads and networks, recorded in fixtures.

tests/tools/mmdet_fixtures.py writes the fixtures if mmdetection is installed.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmdet_record import TOOL, record, weights, zeros

from focaldet.boxes.locations import Lattice
from focaldet.engine.spec import METHODS
from focaldet.importing.checkpoint import Checkpoint
from focaldet.importing.fitting import fit
from focaldet.importing.mmdet import read_mmdet
from focaldet.methods.positives import find_positives
from focaldet.models.postprocess import PostProcess
from focaldet.structures import GroundTruth, HeadOutputs

NAMES = ("retinanet", "fcos", "fcos_center", "atss", "gfl")
TERMS = {"loss_cls": "class", "loss_bbox": "box", "loss_centerness": "centerness", "loss_dfl": "distribution"}
STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    tensors, text = record(request.param)
    return request.param, tensors, Checkpoint(Path(f"{request.param}.pth"), zeros(request.param), {"cfg": text})


def maps_of(tensors):
    """The head's maps, as leaves with a gradient."""
    return [
        [tensors[f"map.{output}.{level}"].float().requires_grad_() for level in range(5)]
        for output in range(3)
        if f"map.{output}.0" in tensors
    ]


def truth_of():
    boxes = [torch.tensor(boxes) for boxes, _ in TOOL.TRUTH]
    labels = [torch.tensor(labels) for _, labels in TOOL.TRUTH]
    index = torch.repeat_interleave(torch.arange(2), torch.tensor([len(b) for b in boxes]))
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    return GroundTruth(torch.cat(boxes), torch.cat(labels), index, 2, *none)


def assert_found(ours, tensors, prefix, rounding=1e-5):
    """The same detections; those of one score may stand in another order."""
    boxes, scores, labels = (tensors[f"{prefix}.{key}"] for key in ("bboxes", "scores", "labels"))
    assert len(ours) == len(scores) > 3
    torch.testing.assert_close(ours.scores, scores, atol=rounding, rtol=0)
    apart = (ours.boxes_xyxy - boxes[:, None]).abs().amax(dim=2) + 1e3 * (ours.labels != labels[:, None])
    nearest = apart.min(dim=1)
    assert float(nearest.values.max()) < 0.01
    assert len(nearest.indices.unique()) == len(ours)


def test_loss_terms_and_gradients_are_mmdetections(case):
    name, tensors, checkpoint = case
    spec = read_mmdet(checkpoint).spec
    method = METHODS[spec.method](**spec.method_options)
    maps = maps_of(tensors)
    outputs = HeadOutputs(maps[0], maps[1], maps[2] if len(maps) > 2 else None)
    lattice = Lattice(outputs.level_shapes, STRIDES, spec.offset)
    truth = truth_of()
    assignment = method.assign(truth, lattice)
    terms = method.losses(outputs, assignment, find_positives(truth, assignment, method.locations(lattice)))
    expected = {TERMS[key.removeprefix("loss.")]: float(v) for key, v in tensors.items() if key.startswith("loss.")}
    assert {key: float(term.detach()) for key, term in terms.items()} == pytest.approx(expected, rel=2e-5)
    torch.stack(list(terms.values())).sum().backward()
    for output, levels in enumerate(maps):
        for level, ours in enumerate(levels):
            theirs = tensors[f"grad.{output}.{level}"]
            grad = torch.zeros_like(ours) if ours.grad is None else ours.grad
            assert torch.allclose(grad, theirs, atol=1e-6, rtol=2e-4), (name, output, level)


def test_detections_of_the_same_maps_are_mmdetections(case):
    _, tensors, checkpoint = case
    spec = read_mmdet(checkpoint).spec
    maps = [[level.detach() for level in levels] for levels in maps_of(tensors)]
    outputs = HeadOutputs(maps[0], maps[1], maps[2] if len(maps) > 2 else None)
    process = PostProcess(METHODS[spec.method](**spec.method_options), STRIDES, spec.postprocess)
    for image, detections in enumerate(process(outputs, [TOOL.IMAGE] * 2)):
        assert_found(detections, tensors, f"found.{image}")


@pytest.mark.slow
def test_whole_network_with_the_same_weights_is_mmdetections(case):
    name, tensors, checkpoint = case
    source = read_mmdet(replace(checkpoint, weights=weights(name)))
    assert source.spec.backbone == "resnet50"
    net, method = source.spec.build()
    fit(net, source, checkpoint.file)
    with torch.no_grad():
        outputs = net.eval()(TOOL.image()[None])
    logits = torch.cat([level.flatten() for level in outputs.class_logits])
    # Both are sums in float32, whose order depends on the number of threads: 1.2e-3 apart with one, of up to 1.8.
    torch.testing.assert_close(logits, tensors["whole.class_logits"], atol=2e-3, rtol=0)
    (detections,) = PostProcess(method, net.strides, source.spec.postprocess)(outputs, [TOOL.IMAGE])
    assert_found(detections, tensors, "whole", rounding=1e-4)  # of a Caffe network, whose inputs reach 255
