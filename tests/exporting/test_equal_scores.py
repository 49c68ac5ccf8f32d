"""Equal scores are ordered by location: torch, NumPy and ONNX keep the same boxes, in the same order."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from focaldet.exporting.graph import DetectionGraph, LocationGraph
from focaldet.exporting.nms import largest_float32, onnx_nms, onnx_topk, topk
from focaldet.exporting.onnx_file import onnx_bytes, onnx_runner
from focaldet.methods.gfl import GFL
from focaldet.models.nms import batched_nms as nms_in_torch
from focaldet.models.postprocess import PostProcess
from focaldet.photos.resize import Resize
from focaldet.runtime.card import ModelCard
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.nms import batched_nms as nms_in_numpy
from focaldet.runtime.outputs import read_outputs
from focaldet.structures import Detections, HeadOutputs

STRIDES, CLASSES, BINS = (8, 16), 3, 5
SIZE = (192, 256)


class Quantised(nn.Module):
    """A replacement for a network, with few distinct values like a quantised one."""

    def __init__(self) -> None:
        super().__init__()
        self.strides, self.num_classes, self.pad_to = STRIDES, CLASSES, 1
        generator = torch.Generator().manual_seed(0)
        self.maps = nn.ModuleList(nn.Conv2d(3, CLASSES + 4 * BINS, s, stride=s, bias=False) for s in STRIDES)
        for conv in self.maps:
            shape = conv.weight.shape
            conv.weight.data = torch.randn(shape, generator=generator) / (100 * shape[1:].numel() ** 0.5)

    def forward(self, images: torch.Tensor) -> HeadOutputs:
        maps = [(2 * conv(images.float() - 128)).round() / 2 for conv in self.maps]
        return HeadOutputs([m[:, :CLASSES].contiguous() for m in maps], [m[:, CLASSES:].contiguous() for m in maps])


@pytest.fixture(scope="module")
def net() -> Any:
    return Quantised().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, *SIZE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def postprocess(**options: Any) -> PostProcess:
    return PostProcess(GFL(num_bins=BINS), STRIDES, score_threshold=0.3, **options)


def card(outputs: Any, process: PostProcess) -> ModelCard:
    config = process.config
    return ModelCard(
        method="gfl",
        class_names=("a", "b", "c"),
        size=256,
        resize=Resize(),
        strides=STRIDES,
        outputs=outputs,
        score_threshold=config.score_threshold,
        nms_iou=config.nms_iou,
        max_detections=config.max_detections,
    )


def in_torch(net: Any, process: PostProcess, images: torch.Tensor) -> list[Detections]:
    with torch.no_grad():
        found: list[Detections] = process(net(images.permute(0, 3, 1, 2)), [SIZE] * len(images))
    return found


def in_onnx(graph: DetectionGraph | LocationGraph, outputs: str, images: torch.Tensor) -> list[DetectionArrays]:
    described = card(outputs, graph.postprocess)
    run = onnx_runner(onnx_bytes(graph, described, torch.uint8))
    arrays = run(images.numpy())
    return [read_outputs(arrays, index, described) for index in range(len(images))]


def assert_same(found: DetectionArrays, expected: Detections) -> None:
    assert len(found) == len(expected)
    assert found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy.numpy(), atol=1e-3)


@pytest.mark.slow
def test_onnx_keeps_the_boxes_of_torch(net: Any, images: torch.Tensor) -> None:
    process = postprocess(topk_candidates=100)
    expected = in_torch(net, process, images)
    scores = expected[0].scores
    assert len(scores) == process.config.max_detections
    assert len(scores.unique()) < len(scores) / 5
    graph = DetectionGraph(net, process, onnx_nms, onnx_topk)
    for mine, theirs in zip(in_onnx(graph, "detections", images), expected, strict=True):
        assert_same(mine, theirs)


@pytest.mark.slow
def test_numpy_keeps_the_boxes_of_torch(net: Any, images: torch.Tensor) -> None:
    process = postprocess(topk_candidates=10_000, max_detections=400)
    for mine, theirs in zip(
        in_onnx(LocationGraph(net, process), "sites", images), in_torch(net, process, images), strict=True
    ):
        assert_same(mine, theirs)


def test_the_batch_changes_nothing(net: Any, images: torch.Tensor) -> None:
    process = postprocess(topk_candidates=50)
    alone = [in_torch(net, process, image[None])[0] for image in images]
    for mine, theirs in zip(in_torch(net, process, images.flip(0)), alone[::-1], strict=True):
        assert torch.equal(mine.boxes_xyxy, theirs.boxes_xyxy)
        assert torch.equal(mine.labels, theirs.labels)


def test_of_equal_candidates_the_first_locations_go_on() -> None:
    logits = [torch.zeros(1, CLASSES, 4, 4), torch.zeros(1, CLASSES, 2, 2)]
    outputs = HeadOutputs(logits, [torch.zeros(1, 4 * BINS, 4, 4), torch.zeros(1, 4 * BINS, 2, 2)])
    process = postprocess(topk_candidates=5, nms_iou=None)
    found = process.candidates(outputs, 0, (32, 32), process.locations(outputs))
    assert found.location.tolist() == [0, 0, 0, 1, 1, 16, 16, 16, 17, 17]
    assert found.labels.tolist() == [0, 1, 2, 0, 1] * 2


@pytest.mark.parametrize("iou", [0.0, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("step", [1.0, 0.25])
def test_nms_is_one_in_torch_and_numpy(iou: float, step: float) -> None:
    """Boxes of a grid overlap by just the limit, too, and thousands of scores are equal."""
    chance = np.random.default_rng(int(10 * iou))
    corners = (chance.integers(0, 60, (5000, 2)) * step).astype(np.float32)
    boxes = np.concatenate([corners, corners + (chance.integers(1, 12, (5000, 2)) * step).astype(np.float32)], axis=1)
    scores, labels = (chance.integers(1, 6, 5000) / 5).astype(np.float32), chance.integers(3, size=5000)
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)
    expected = nms_in_torch(*tensors, iou, 2000)
    ranked = expected.numpy()
    order = np.lexsort((ranked, -scores[ranked]))  # by score, then by place
    assert np.array_equal(order, np.arange(len(order)))
    assert nms_in_numpy(boxes, scores, labels, iou, 2000).tolist() == expected.tolist()


def test_without_the_kernel_equal_scores_are_ordered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; more than 4000 numbers, which torchvision suppresses class by class."""
    chance = np.random.default_rng(0)
    corners = chance.uniform(0, 60, (5000, 2)).astype(np.float32)
    boxes = torch.from_numpy(np.concatenate([corners, corners + chance.uniform(1, 9, (5000, 2))], axis=1)).float()
    scores, labels = torch.from_numpy(chance.integers(1, 6, 5000) / 5).float(), torch.arange(5000) % 3
    expected = nms_in_torch(boxes, scores, labels, 0.5, 1000)
    monkeypatch.setattr("focaldet.kernels.available", lambda: {"cpu": "not here"})
    assert nms_in_torch(boxes, scores, labels, 0.5, 1000).tolist() == expected.tolist()


@pytest.mark.parametrize("best", [topk, onnx_topk])
def test_of_equal_values_the_first_are_the_best(best: Any) -> None:
    values = torch.randint(-2, 3, (3, 3000), generator=torch.Generator().manual_seed(0)) * torch.tensor(-0.3)
    expected = np.argsort(-values.numpy(), axis=1, kind="stable")
    assert best(values, 700).tolist() == expected[:, :700].tolist()
    assert best(values, 5000).tolist() == expected.tolist()


@pytest.mark.parametrize("value", [0.6, 0.5, 1 / 3, 0.1, 0.0, 1.0])
def test_a_limit_in_float32_separates_the_same_numbers(value: float) -> None:
    limit = largest_float32(value)
    assert limit == float(np.float32(limit)) <= value < float(np.nextafter(np.float32(limit), np.float32(2)))
