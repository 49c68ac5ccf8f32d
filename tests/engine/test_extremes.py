"""Extreme photos and objects: one pixel, a sliver, more objects than locations, ten thousand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from focaldet.boxes.locations import Lattice
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.spec import METHODS, ModelSpec
from focaldet.engine.train import train
from focaldet.methods.targets import losses_of, make_targets
from focaldet.models.postprocess import PostProcess
from focaldet.structures import IGNORED, GroundTruth

every_method = pytest.mark.parametrize("name", METHODS)


def detector_of(name):
    torch.manual_seed(0)
    spec = ModelSpec(name, ("a", "b"), "mobilenetv3_small_050", size=64, channels=16, head_depth=1)
    return spec.build()


def objects(counts, sizes, seed=0, largest=200.0):
    """Random boxes clipped to their image, this many per image."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    limit = torch.tensor(sizes).flip(-1)[index].float()
    center = torch.rand(len(index), 2, generator=generator) * limit
    half = torch.rand(len(index), 2, generator=generator) * largest / 2 + 0.01
    boxes = torch.cat([(center - half).clamp(min=0), torch.minimum(center + half, limit)], dim=1)
    labels = torch.randint(2, index.shape, generator=generator)
    return GroundTruth(boxes, labels, index, len(counts), torch.zeros(0, 4), index[:0])


def step(net, method, truth, sizes):
    """A training step on images of these (height, width); returns the assignment."""
    net.train()
    height, width = np.max(sizes, axis=0).tolist()
    outputs = net(torch.randint(256, (len(sizes), 3, height, width), dtype=torch.uint8))
    lattice = Lattice(outputs.level_shapes, net.strides)
    targets = make_targets(method, truth, lattice, torch.tensor(sizes))
    terms = losses_of(method, outputs, targets, progress=1.0)
    torch.stack(list(terms.values())).sum().backward()
    assert all(bool(term.isfinite()) for term in terms.values()), terms
    grads = {key: parameter.grad for key, parameter in net.named_parameters() if parameter.grad is not None}
    assert "head.class_logits.weight" in grads
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    return targets.assignment.matched_gt


def check_detections(net, method, sizes):
    """For any network output, boxes lie in the image and numbers are finite."""
    net.eval()
    height, width = np.max(sizes, axis=0).tolist()
    with torch.no_grad():
        outputs = net(torch.randint(256, (len(sizes), 3, height, width), dtype=torch.uint8))
        found = PostProcess(method, net.strides, score_threshold=0.0)(outputs, sizes)
    for detections, (height, width) in zip(found, sizes, strict=True):
        boxes = detections.boxes_xyxy
        assert bool((boxes >= 0).all())
        assert bool((boxes <= torch.tensor([width, height, width, height])).all())
        assert bool(detections.scores.isfinite().all())


@every_method
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([(1, 1), (1, 1)], marks=pytest.mark.slow),
        pytest.param([(1, 300), (1, 297)], marks=pytest.mark.slow),
        pytest.param([(33, 47), (31, 97)], marks=pytest.mark.slow),
        [(1, 1), (130, 65)],
        pytest.param([(129, 1), (2, 129)], marks=pytest.mark.slow),
    ],
)
def test_images_of_any_size_train_and_are_read(name, sizes):
    net, method = detector_of(name)
    matched = step(net, method, objects([2, 3], sizes), sizes)
    own = Lattice(net(torch.zeros(2, 3, *np.max(sizes, axis=0))).level_shapes, net.strides).inside(torch.tensor(sizes))
    assert bool((matched[~own.repeat_interleave(method.anchors_per_location, dim=1)] == IGNORED).all())
    check_detections(net, method, sizes)


@every_method
def test_more_objects_than_locations_train(name):
    net, method = detector_of(name)
    sizes = [(32, 40), (40, 32)]
    truth = objects([300, 500], sizes, largest=40.0)
    matched = step(net, method, truth, sizes)
    locations = matched.shape[1] // method.anchors_per_location
    assert locations < 300
    for image, first, last in ((0, 0, 300), (1, 300, 800)):
        found = matched[image][matched[image] >= 0]
        assert found.numel()
        assert bool(((found >= first) & (found < last)).all())


@pytest.mark.slow
@every_method
def test_an_image_with_ten_thousand_objects_trains(name):
    net, method = detector_of(name)
    sizes = [(256, 320), (200, 256)]
    matched = step(net, method, objects([10_000, 0], sizes, largest=100.0), sizes)
    assert len(set(matched[0].tolist())) > 200
    assert bool((matched[1] < 0).all())


def write_photos(root: Path, photos: dict[str, tuple[int, int]], objects: int = 1) -> Path:
    """A COCO folder of noise in these (width, height); each photo is one object, listed this many times."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, (name, (width, height)) in enumerate(photos.items()):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / "images" / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for i in range(objects):
            shrink = 1 - i / (2 * objects)  # no two alike
            box = [0, 0, width * shrink, height * shrink]
            entry = {"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0}
            annotations.append(entry)
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    for split in ("train", "val"):
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "gfl"])
def test_photos_of_a_pixel_and_of_a_row_make_a_run_that_reads_them(
    name: str, config: TrainConfig, tmp_path: Path
) -> None:
    sizes = {"dot.png": (1, 1), "row.png": (500, 1), "column.png": (2, 700), "odd.png": (71, 33)}
    data = write_photos(tmp_path / "photos", sizes)
    run = train(replace(config, data=str(data), method=name, epochs=1, augment="strong"), say=lambda line: None)
    detector = Detector.load(run, score_threshold=0.0)
    for photo, (width, height) in sizes.items():
        found = detector.predict(data / "images" / photo)
        assert bool((found.boxes_xyxy <= torch.tensor([width, height, width, height])).all())
    assert json.loads((run / "evaluation.json").read_text())["objects"] == 4


@pytest.mark.slow
def test_a_photo_of_ten_thousand_objects_makes_a_run(config: TrainConfig, tmp_path: Path) -> None:
    data = write_photos(tmp_path / "photos", {"a.png": (640, 480), "b.png": (320, 240)}, objects=10_000)
    run = train(replace(config, data=str(data), epochs=1), say=lambda line: None)
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["objects"] == 20_000
