"""The exported graph computes the same as the network and its post-processing, checked before writing a file."""

from dataclasses import replace

import pytest
import torch
from random_runs import MMDETECTION, TORCHVISION, random_detector

from focaldet.engine.detector import as_arrays
from focaldet.engine.spec import METHODS
from focaldet.exporting.export import model_card
from focaldet.exporting.graph import PADDING, DetectionGraph, LocationGraph, RawGraph
from focaldet.exporting.nms import batched_nms
from focaldet.models.postprocess import PostProcess
from focaldet.runtime.outputs import read_outputs
from focaldet.structures import HeadOutputs

CONFIGS = {
    "few candidates": {"topk_candidates": 20},
    "many detections": {"max_detections": 3000},
    "one detection": {"max_detections": 1},
    "no suppression": {"nms_iou": None},
    "everything": {"score_threshold": 0.0},
    "nothing": {"score_threshold": 0.999},
    "strict suppression": {"nms_iou": 0.0},
    "empty boxes, last pixel": {"keep_empty": True, "last_pixel": True},
    "other centres": {"offset": 0.0, "shift_px": 3.5, "steps": "fitted"},
}

SIZES = [(96, 128), (77, 101), (1, 1), (33, 160)]


def noise(size: tuple[int, int], count: int = 3) -> torch.Tensor:
    """Images of blots, ``(B, H, W, 3)``."""
    generator = torch.Generator().manual_seed(sum(size))
    coarse = torch.rand(count, 3, -(-size[0] // 8), -(-size[1] // 8), generator=generator)
    blots = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return (255 * blots).byte().permute(0, 2, 3, 1).contiguous()


def found_by_run(detector, images: torch.Tensor, postprocess: PostProcess) -> list:
    with torch.no_grad():
        outputs = detector.net(images.permute(0, 3, 1, 2))
    return [as_arrays(found) for found in postprocess(outputs, [tuple(images.shape[1:3])] * len(images))]


def found_by(graph, images: torch.Tensor, card) -> list:
    with torch.no_grad():
        outputs = dict(zip(graph.output_names, (x.numpy() for x in graph(images)), strict=True))
    return [read_outputs(outputs, index, card) for index in range(len(images))]


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    pairs = [(found.boxes_xyxy, expected.boxes_xyxy), (found.scores, expected.scores)]
    if expected.side_std_px is not None:
        pairs.append((found.side_std_px, expected.side_std_px))
    for ours, theirs in pairs:
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-4, rtol=1e-5)
    assert found.labels.tolist() == expected.labels.tolist()


@pytest.fixture(scope="module")
def detectors() -> dict:
    return {name: random_detector(name) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_detections_are_those_of_the_run(detectors: dict, method: str) -> None:
    detector = detectors[method]
    graph = DetectionGraph(detector.net, detector.postprocess, batched_nms)
    for size in SIZES:
        images = noise(size)
        expected = found_by_run(detector, images, detector.postprocess)
        assert min(map(len, expected)) > 3 or size != SIZES[0]
        for ours, theirs in zip(found_by(graph, images, model_card(detector, "detections")), expected, strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("method", ["fcos", "gflv2"])
def test_detections_are_those_of_the_run_however_they_are_read(detectors: dict, method: str, config: str) -> None:
    detector, images = detectors[method], noise((77, 101), 2)
    postprocess = PostProcess(detector.method, detector.net.strides, **CONFIGS[config])
    graph = DetectionGraph(detector.net, postprocess, batched_nms)
    expected = found_by_run(detector, images, postprocess)
    assert (max(map(len, expected)) == 0) == (config == "nothing")
    card = replace(model_card(detector, "detections"), max_detections=postprocess.config.max_detections)
    for ours, theirs in zip(found_by(graph, images, card), expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_a_box_of_every_location_gives_the_detections_of_the_run(detectors: dict, method: str) -> None:
    detector = detectors[method]
    postprocess = PostProcess(detector.method, detector.net.strides, topk_candidates=10**6)
    graph = LocationGraph(detector.net, postprocess)
    images = noise((77, 101), 2)
    with torch.no_grad():
        boxes, scores, *_ = graph(images)
    assert boxes.shape == (2, scores.shape[1], 4)
    assert scores.shape[2] == 3
    assert bool((boxes >= 0).all())
    expected = found_by_run(detector, images, postprocess)
    for ours, theirs in zip(found_by(graph, images, model_card(detector, "sites")), expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_raw_maps_are_those_of_the_network(detectors: dict, method: str) -> None:
    net = detectors[method].net
    graph, images = RawGraph(net), noise((77, 101))
    with torch.no_grad():
        maps = dict(zip(graph.output_names, graph(images), strict=True))
        expected: HeadOutputs = net(images.permute(0, 3, 1, 2))
    levels = [f"p{level}" for level in range(3, 8)]
    kinds = {"class_logits": expected.class_logits, "box_outputs": expected.box_maps}
    if expected.quality_logits is not None:
        kinds["quality_logits"] = expected.quality_logits
    assert list(maps) == [f"{kind}_{level}" for kind in kinds for level in levels]
    for kind, theirs in kinds.items():
        for level, values in zip(levels, theirs, strict=True):
            assert torch.equal(maps[f"{kind}_{level}"], values)


@pytest.mark.parametrize(("method", "options"), [("retinanet", TORCHVISION), ("atss", MMDETECTION)])
def test_networks_from_elsewhere_are_read_in_their_own_way(method: str, options: dict) -> None:
    detector = random_detector(method, **options)
    graph = DetectionGraph(detector.net, detector.postprocess, batched_nms)
    for size in ((77, 101), (70, 93)):
        images = noise(size).float() if options is TORCHVISION else noise(size)
        expected = found_by_run(detector, images, detector.postprocess)
        assert min(map(len, expected)) > 3
        for ours, theirs in zip(found_by(graph, images, model_card(detector, "detections")), expected, strict=True):
            assert_same(ours, theirs)


def test_what_an_image_does_not_fill_is_marked(detectors: dict) -> None:
    detector = detectors["gfl"]
    graph = DetectionGraph(detector.net, detector.postprocess, batched_nms)
    images = noise((96, 128))
    images[1] = 0
    with torch.no_grad():
        boxes, scores, labels, deviations, count = graph(images)
    assert boxes.shape == deviations.shape == (3, 100, 4)
    assert 0 < int(count.min())
    assert int(count.max()) < 100
    for image, number in enumerate(count.tolist()):
        assert bool((scores[image, :number] > 0).all())
        assert bool((labels[image, :number] >= 0).all())
        assert bool((labels[image, number:] == PADDING).all())
        for rest in (boxes, scores, deviations):
            assert bool((rest[image, number:] == 0).all())


def test_weights_that_are_no_numbers_give_no_box() -> None:
    detector = random_detector("gfl")
    with torch.no_grad():
        detector.net.head.box_outputs.weight[:17] = torch.nan
    graph = DetectionGraph(detector.net, detector.postprocess, batched_nms)
    with torch.no_grad():
        *_, count = graph(noise((96, 128)))
    assert count.tolist() == [0, 0, 0]
