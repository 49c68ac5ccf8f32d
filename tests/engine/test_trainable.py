"""The detector that is called like torchvision's: its inputs, results and errors."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import tv_tensors

import focaldet
from focaldet.checks import InputError
from focaldet.data.batching import Sample
from focaldet.engine.spec import METHODS
from focaldet.engine.trainable import TrainableDetector
from focaldet.methods.gfl import GFL
from focaldet.methods.targets import TargetCollate
from focaldet.photos.images import read_photo

TINY: dict[str, Any] = {
    "backbone": "mobilenetv3_small_050",
    "size": 64,
    "channels": 16,
    "head_depth": 1,
    "pretrained": False,
}
Target = dict[str, Tensor]


def target(boxes: list[list[float]], labels: list[int]) -> Target:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


@pytest.fixture
def model() -> TrainableDetector:
    torch.manual_seed(0)
    return focaldet.detector("gfl", num_classes=3, score_threshold=0.0, **TINY)


@pytest.fixture
def images() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3, 48, 64), torch.rand(3, 90, 60), torch.rand(3, 48, 64)]


@pytest.mark.parametrize("method", METHODS)
def test_losses_in_training_and_detections_in_evaluation(method: str, images: list[Tensor]) -> None:
    model = focaldet.detector(method, num_classes=2, score_threshold=0.0, **TINY)
    targets = [target([[4, 4, 40, 40]], [1]), target([], []), target([[0, 0, 9, 9], [20, 8, 60, 40]], [0, 1])]
    losses = model(images, targets)
    assert {"class", "box"} <= set(losses)
    sum(losses.values()).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert float(losses["box"].detach()) > 0
    found = model.eval()(images)
    assert [set(one) for one in found] == 3 * [
        {"boxes", "labels", "scores"} | ({"side_std"} if issubclass(METHODS[method], GFL) else set())
    ]
    for one, image in zip(found, images, strict=True):
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert len(one["boxes"])
        assert bool((one["boxes"] <= torch.tensor([image.shape[2], image.shape[1]]).repeat(2)).all())
        assert bool((one["scores"].diff() <= 0).all())
        assert not one["boxes"].requires_grad


def test_losses_are_those_of_a_training_step_of_a_run(model: TrainableDetector, images: list[Tensor]) -> None:
    pixels = [(255 * images[i]).round().to(torch.uint8) for i in (0, 2)]  # already of the network's size
    boxes = [torch.tensor([[4.0, 4, 40, 40]]), torch.tensor([[10.0, 8, 50, 44], [0.0, 0, 20, 20]])]
    labels = [torch.tensor([1]), torch.tensor([0, 2])]
    samples = [Sample(i, pixels[i], boxes[i], labels[i], torch.zeros(0, 4)) for i in range(2)]
    batch = TargetCollate(model.method, model.net, model.spec.offset)(samples)
    own = model(pixels, [{"boxes": b, "labels": i} for b, i in zip(boxes, labels, strict=True)])
    model.net.train()
    theirs = model.method.losses(model.net(batch.images), batch.targets.assignment, batch.targets.positives)
    assert own.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(own[name], value)


def test_a_photo_s_detections_do_not_depend_on_its_neighbours(model: TrainableDetector, images: list[Tensor]) -> None:
    together = model.eval()(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = model([image])
        for key in found:
            torch.testing.assert_close(found[key], alone[key], rtol=1e-4, atol=1e-3)


def test_bytes_and_floats_are_the_same_photo(model: TrainableDetector, images: list[Tensor]) -> None:
    pixels = (255 * images[1]).round().to(torch.uint8)
    (whole,), (floating,) = model.eval()([pixels]), model([pixels / 255])
    torch.testing.assert_close(whole["boxes"], floating["boxes"], rtol=1e-4, atol=1e-3)


def test_boxes_are_those_of_the_image_that_was_given(model: TrainableDetector, images: list[Tensor]) -> None:
    large = images[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    boxes = target([[8, 8, 40, 40]], [1])
    half, full = (
        model([image], [one]) for image, one in ((images[0], boxes), (large, {**boxes, "boxes": 2 * boxes["boxes"]}))
    )
    for name in half:  # scaled down, the large image is the small one
        torch.testing.assert_close(half[name], full[name], rtol=0.05, atol=0.01)
    model.eval()
    (small,), (twice,) = model([images[0]]), model([large])
    assert float(twice["boxes"].amax() / small["boxes"].amax()) == pytest.approx(2, rel=0.02)


def test_crowds_are_neither_objects_nor_background(model: TrainableDetector, images: list[Tensor]) -> None:
    everything = {**target([[0, 0, 64, 48]], [1]), "iscrowd": torch.tensor([1])}
    crowd = model([images[0]], [everything])
    empty = model([images[0]], [target([], [])])
    assert float(crowd["box"].detach()) == 0
    # Locations of the coarsest levels lie beside the image, and remain background.
    assert 0 < float(crowd["class"].detach()) < 0.05 * float(empty["class"].detach())


def test_boxes_of_torchvision_in_another_format_are_converted(model: TrainableDetector, images: list[Tensor]) -> None:
    boxes = tv_tensors.BoundingBoxes([[4, 4, 36, 36]], format="XYWH", canvas_size=(48, 64), dtype=torch.float32)
    labels = torch.tensor([1])
    converted = model([tv_tensors.Image(images[0])], [{"boxes": boxes, "labels": labels}])
    plain = model([images[0]], [target([[4, 4, 40, 40]], [1])])
    assert {k: float(v.detach()) for k, v in converted.items()} == {k: float(v.detach()) for k, v in plain.items()}


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        ([torch.rand(3, 8)], None, r"images\[0\]: expected a tensor \(3, H, W\), got \(3, 8\)"),
        ([np.zeros((3, 8, 8))], None, r"images\[0\]: expected a tensor \(3, H, W\), got ndarray"),
        ([torch.rand(3, 8, 8) * 255], None, r"images\[0\]: expected colours in \[0, 1\], got .*divide 0 to 255 by 255"),
        ([torch.randn(3, 80, 80)], None, "leave out the normalisation"),
        ([torch.rand(3, 8, 8)], None, "targets: missing"),
        ([torch.rand(3, 8, 8)], [], "targets: expected one for each of the 1 images, got 0"),
        ([torch.rand(3, 8, 8)], [{"boxes": torch.zeros(0, 4)}], r"targets\[0\]: expected a tensor 'labels'"),
        ([torch.rand(3, 8, 8)], [target([[1, 1, 3, 3]], [3])], r"expected 0 to 2, got 3; labels that start at 1 need"),
        ([torch.rand(3, 8, 8)], [target([[1, 1, 3, 3]], [-1])], r"targets\[0\]\['labels'\]: expected 0 to 2, got -1$"),
        ([torch.rand(3, 8, 8)], [target([[1, 1, 3, 3]], [])], r"\['labels'\]: expected 1 whole numbers"),
        ([torch.rand(3, 8, 8)], [target([[1, 1, 3, 3], [5, 1, 3, 3]], [0, 0])], r"\['boxes'\]\[1\]: expected x1 < x2"),
    ],
)
def test_a_mistake_is_named(model: TrainableDetector, images: Any, targets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(images, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_classes: missing"),
        ({"num_classes": 0}, "num_classes: expected at least 1, got 0"),
        ({"num_classes": 3, "class_names": ["a"]}, "num_classes: 3, but class_names has 1"),
        ({"num_classes": 3, "backbon": "resnet18"}, "detector: unknown option 'backbon'; did you mean 'backbone'?"),
        ({"num_classes": 3, "lr": 0.1}, "detector: unknown option 'lr'"),
        ({"num_classes": 3, "method": "glf"}, "method: unknown value 'glf'; did you mean 'gfl'?"),
        ({"num_classes": 3, "size": 8}, "size: expected at least 32, got 8"),
        ({"weights": "nowhere"}, "--weights nowhere: no such run folder"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        focaldet.detector(**options)


def test_a_run_s_weights_bring_its_classes_and_its_detections(trained: Path, cells: Path) -> None:
    model = focaldet.detector(weights=trained, score_threshold=0.0, say=lambda line: None).eval()
    assert model.class_names == focaldet.Run(trained).class_names
    assert model.spec.size == 64
    photo = read_photo(next((cells / "JPEGImages").iterdir()))
    (found,) = model([torch.from_numpy(photo.copy()).permute(2, 0, 1) / 255])
    theirs = focaldet.Detector.load(trained, score_threshold=0, calibrated=False, device="cpu").predict(photo)
    assert len(theirs) > 0
    # Pillow rounds colours where it scales them.
    torch.testing.assert_close(found["scores"][:5], theirs.scores[:5], rtol=0.02, atol=1e-3)
    torch.testing.assert_close(found["boxes"][:5], theirs.boxes_xyxy[:5], rtol=0.02, atol=2)
    torch.testing.assert_close(found["side_std"][:5], theirs.side_std_px[:5], rtol=0.05, atol=0.5)


def test_a_run_s_weights_are_kept_but_for_other_classes(trained: Path) -> None:
    lines: list[str] = []
    model = focaldet.detector(weights=trained, num_classes=5, say=lines.append)
    there, here = load_file(trained / "model.safetensors"), model.net.state_dict()
    differing = {name for name in there if here[name].shape != there[name].shape}
    assert differing == {"head.class_logits.weight", "head.class_logits.bias"}
    assert all(bool((here[name] == there[name]).all()) for name in there.keys() - differing)
    assert any("class" in line for line in lines)


def test_what_an_own_loop_trained_becomes_a_run(model: TrainableDetector, cells: Path, tmp_path: Path) -> None:
    run = focaldet.Run(model.save(tmp_path / "own", ["Platelets", "RBC", "WBC"]))
    assert run.class_names == ("Platelets", "RBC", "WBC")
    photo = next((cells / "JPEGImages").iterdir())
    assert len(run.predict(photo, score=0.001)) >= 1
    assert run.evaluate(cells, "val", say=lambda line: None)["images"] == 2
    with pytest.raises(InputError, match="own: already holds a run"):
        model.save(tmp_path / "own")
    with pytest.raises(InputError, match="class_names: expected 3, got 1"):
        model.save(tmp_path / "other", ["cell"])


def test_a_copy_and_its_state_detect_the_same(model: TrainableDetector, images: list[Tensor]) -> None:
    model.eval()
    (before,) = model(images[:1])
    (copied,) = copy.deepcopy(model)(images[:1])
    other = focaldet.detector("gfl", num_classes=3, score_threshold=0.0, **TINY).eval()
    other.load_state_dict(model.state_dict())
    (loaded,) = other(images[:1])
    assert bool((before["boxes"] == copied["boxes"]).all())
    assert bool((before["boxes"] == loaded["boxes"]).all())


def test_a_detector_is_built_from_the_random_numbers_that_come_next() -> None:
    def first_weights() -> Tensor:
        weights: Tensor = next(focaldet.detector("gfl", num_classes=1, **TINY).parameters()).detach()
        return weights

    build: Callable[[], Tensor] = first_weights
    torch.manual_seed(7)
    one, two = build(), build()
    torch.manual_seed(7)
    again = build()
    assert bool((one == again).all())
    assert not bool((one == two).all())


def test_mixed_precision(model: TrainableDetector, images: list[Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images[:1], [target([[4, 4, 40, 40]], [1])])
    sum(losses.values()).backward()
    exact = model(images[:1], [target([[4, 4, 40, 40]], [1])])
    for name, value in exact.items():
        assert float(losses[name].detach()) == pytest.approx(float(value.detach()), rel=0.05)
