"""torchvision's detectors with random weights, focaldet's with the same weights, and the measured work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from focaldet.boxes.locations import Lattice
from focaldet.engine.spec import ModelSpec
from focaldet.importing.checkpoint import Checkpoint
from focaldet.importing.fitting import fit
from focaldet.importing.torchvision_models import read_torchvision
from focaldet.methods.method import Method
from focaldet.methods.positives import find_positives
from focaldet.models.detector import DenseDetector
from focaldet.models.postprocess import PostProcess
from focaldet.structures import Detections, GroundTruth
from focaldet.system.heap import keep_memory

NAMES = ("RetinaNet", "FCOS")
NUM_CLASSES, CHANNELS, OBJECTS = 80, 256, 15
BACKBONE = "resnet18"
WHO = ("ours", "peer", "peer, channels last")
"""The peer as commonly used, and in its faster memory format."""


def scene(images: int, height: int, width: int, objects: int, num_classes: int) -> tuple[Tensor, GroundTruth]:
    """Noise as photos ``(B, 3, H, W)`` uint8, and random boxes of about a fifth of their sides."""
    generator = torch.Generator().manual_seed(0)
    photos = torch.randint(256, (images, 3, height, width), generator=generator, dtype=torch.uint8)
    index, limit = torch.arange(images).repeat_interleave(objects), torch.tensor([float(width), float(height)])
    center = torch.rand(len(index), 2, generator=generator) * limit
    half = limit * 0.1 * (0.5 * torch.randn(len(index), 2, generator=generator)).exp()
    boxes = torch.cat([(center - half).clamp(min=0), torch.minimum(center + half, limit)], dim=1)
    labels = torch.randint(num_classes, index.shape, generator=generator)
    return photos, GroundTruth(boxes, labels, index, images, torch.zeros(0, 4), index[:0])


def torchvision_model(name: str, size: int, num_classes: int = NUM_CLASSES) -> nn.Module:
    """torchvision's detector on a ResNet-18 with trainable batch norms and with its own towers."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name=BACKBONE,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(CHANNELS, CHANNELS),
    )
    kind = FCOS if name == "FCOS" else RetinaNet
    model: nn.Module = kind(backbone, num_classes, min_size=size, max_size=size)
    return model


@dataclass(frozen=True)
class Ours:
    """A focaldet detector with the weights of a torchvision detector."""

    spec: ModelSpec
    net: DenseDetector
    method: Method
    postprocess: PostProcess
    offset: float


def with_weights_of(model: nn.Module, num_classes: int = NUM_CLASSES) -> Ours:
    """Convert it like ``focaldet import``."""
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    source = read_torchvision(
        Checkpoint(Path("random weights"), weights),
        class_names=tuple(f"class {i}" for i in range(num_classes)),
        batch_norm_eps=1e-5,
    )
    net, method = source.spec.build()
    fit(net, source, Path("random weights"))
    postprocess = PostProcess(method, net.strides, source.spec.postprocess)
    net = net.to(memory_format=torch.channels_last)
    return Ours(source.spec, net, method, postprocess, source.spec.offset)


@torch.no_grad()
def give_detections(model: Any, photo: Tensor) -> None:
    """Scale the last layers of torchvision's detector so that it detects some hundred objects in a photo in [0, 1]."""
    model.eval()
    images, _ = model.transform([photo])
    classes, boxes = model.head.classification_head, model.head.regression_head
    last = {"cls_logits": (classes.cls_logits, 1.0, -6.0), "bbox_regression": (boxes.bbox_reg, 0.3, 0.0)}
    if hasattr(boxes, "bbox_ctrness"):
        last["bbox_regression"] = (boxes.bbox_reg, 0.5, 2.0)  # sides of two strides
        last["bbox_ctrness"] = (boxes.bbox_ctrness, 1.0, 2.0)
        last["cls_logits"] = (classes.cls_logits, 1.0, -4.0)
    for layer, _, _ in last.values():
        layer.bias.zero_()
    outputs = model.head(list(model.backbone(images.tensors).values()))
    for name, (layer, spread, centre) in last.items():
        layer.weight.mul_(spread / outputs[name].std())
        layer.bias.fill_(centre)


def training_step(name: str, who: str, images: int, size: int) -> Callable[[], object]:
    """Forward, loss, backward and update on one batch, in float32, ready to run in a separate process."""
    if who == "ours":
        keep_memory()  # as `focaldet train` does on a CPU
    photos, truth = scene(images, size, size, OBJECTS, NUM_CLASSES)
    model: Any = torchvision_model(name, size)
    if who == "ours":
        ours = with_weights_of(model)
        net: nn.Module = ours.net.train()
        sizes = torch.tensor([[size, size]] * images)

        def loss() -> Tensor:
            outputs = ours.net(photos)
            lattice = Lattice(outputs.level_shapes, ours.net.strides, ours.offset)
            assignment = ours.method.assign(truth, lattice, sizes)
            positives = find_positives(truth, assignment, ours.method.locations(lattice))
            return torch.stack(list(ours.method.losses(outputs, assignment, positives).values())).sum()

    else:
        net = model.train()
        if "channels last" in who:
            net = net.to(memory_format=torch.channels_last)
        pixels = [photo / 255 for photo in photos]  # it takes floats, prepared in advance
        targets = [
            {"boxes": truth.boxes_xyxy[truth.image_index == i], "labels": truth.labels[truth.image_index == i]}
            for i in range(images)
        ]

        def loss() -> Tensor:
            return torch.stack(list(model(pixels, targets).values())).sum()

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def two_training_steps(name: str, who: str, images: int, size: int) -> Callable[[], object]:
    """Take two steps. During the second, the state of the optimiser exists along with activations and gradients."""
    step = training_step(name, who, images, size)
    return lambda: (step(), step())


def inference(name: str, who: str, size: int) -> Callable[[], Detections]:
    """From a photo to its boxes, ready to run."""
    (photo,), _ = scene(1, size, size, 1, NUM_CLASSES)
    model: Any = torchvision_model(name, size)
    give_detections(model, photo / 255)
    if who == "ours":
        ours = with_weights_of(model)
        ours.net.eval()

        def detect() -> Detections:
            with torch.no_grad():
                (found,) = ours.postprocess(ours.net(photo[None]), [(size, size)])
            return found

        return detect
    if "channels last" in who:
        model.to(memory_format=torch.channels_last)
    pixels = photo / 255

    def detect_there() -> Detections:
        with torch.no_grad():
            (found,) = model([pixels])
        return Detections(found["boxes"], found["scores"], found["labels"])

    return detect_there
