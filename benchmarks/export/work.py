"""Exported detectors on a ResNet-18: ours in float32 and with 8 bits, and torchvision's."""

import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from benchmarks.detectors.work import BACKBONE, give_detections, torchvision_model, with_weights_of
from numpy.typing import NDArray
from torch import Tensor, nn

from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.spec import spec_of
from focaldet.exporting.export import make_file
from focaldet.exporting.int8 import FLOAT_PARTS, Int8
from focaldet.exporting.quantise import with_8_bits
from focaldet.models import conv3x3
from focaldet.photos.images import read_photo
from focaldet.photos.resize import Resize
from focaldet.runtime.providers import onnx_session, provider_session

SIZE, PHOTOS = 320, 8


@dataclass(frozen=True)
class Scene:
    """Labelled photos, and some of them as network inputs: ``(1, 240, 320, 3)`` uint8 each."""

    folder: DataFolder
    images: list[NDArray[np.uint8]]

    @classmethod
    def of(cls, data: Path) -> "Scene":
        folder = read_folder(data)
        records = folder.splits["test"][:PHOTOS]
        images: Any = [np.array(Resize()(read_photo(record.path), SIZE))[None] for record in records]
        return cls(folder, images)

    def batches(self, count: int) -> list[NDArray[np.uint8]]:
        """Batches with ``count`` photos each."""
        return [np.concatenate([self.images[(i + k) % PHOTOS] for k in range(count)]) for i in range(PHOTOS)]


def in_turn(work: Callable[[Any], object], inputs: Sequence[Any]) -> Callable[[], object]:
    """A function that processes the next input at each call."""
    turn = 0

    def step() -> object:
        nonlocal turn
        turn += 1
        return work(inputs[turn % len(inputs)])

    return step


@torch.no_grad()
def own_detector(scene: Scene) -> Detector:
    """GFL with its default head and random weights that detect some hundred objects in a photo."""
    torch.manual_seed(0)
    spec = spec_of(TrainConfig(data="", backbone=BACKBONE, size=SIZE), scene.folder.class_names)
    net, method = spec.build()
    net.eval()
    outputs = net(torch.from_numpy(scene.images[0]).permute(0, 3, 1, 2))
    for layer, maps, spread, centre in (
        (net.head.class_logits, outputs.class_logits, 1.0, -4.0),
        (net.head.box_outputs, outputs.box_maps, 1.0, 0.0),
    ):
        there = torch.cat([(level - layer.bias[:, None, None]).flatten() for level in maps])  # type: ignore[index]
        layer.weight.mul_(spread / there.std())
        layer.bias.fill_(centre)  # type: ignore[union-attr]
    return Detector(spec, net.to(memory_format=torch.channels_last), method)


def torchvision_pair(scene: Scene) -> tuple[nn.Module, Detector]:
    """torchvision's FCOS, and focaldet's FCOS with its weights."""
    num_classes = len(scene.folder.class_names)
    model = torchvision_model("FCOS", SIZE, num_classes)
    give_detections(model, torchvision_input(scene.images[0]))
    ours = with_weights_of(model, num_classes)
    spec = replace(ours.spec, size=SIZE, resize=replace(ours.spec.resize, short_side=None))
    return model.eval(), Detector(spec, ours.net, ours.method)


def torchvision_input(images: NDArray[np.uint8]) -> Tensor:
    """The input of torchvision's detector: a photo ``(3, H, W)`` in [0, 1]."""
    return torch.from_numpy(images[0]).permute(2, 0, 1) / 255


def eager(detector: Detector, *, tiles: bool = True, bf16: bool = False) -> Callable[[NDArray[np.uint8]], object]:
    """The run: unchanged, with torch's instead of Winograd's convolutions, or in bfloat16 with torch's autocast."""
    least = conv3x3.MIN_TILES if tiles else sys.maxsize

    def detect(images: NDArray[np.uint8]) -> object:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        with torch.no_grad(), autocast, patch.object(conv3x3, "MIN_TILES", least):
            outputs = detector.net(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
        return detector.postprocess(outputs, [images.shape[1:3]] * len(images))

    return detect


def our_file(detector: Detector) -> bytes:
    """Export like ``focaldet export``."""
    return make_file(detector, "onnx", "detections")[0]


def our_int8_file(detector: Detector, data: bytes, scene: Scene) -> bytes:
    """Export like ``focaldet export --int8``."""
    return with_8_bits(data, detector, Int8(scene.folder.root).photos(scene.folder)[:16], FLOAT_PARTS["nothing"])


def convolution_share(data: bytes, inputs: Sequence[NDArray[Any]]) -> float:
    """Share of convolutions in the time that onnxruntime spends in operators, in [0, 1]."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for x in inputs:
            session.run(None, {session.get_inputs()[0].name: x})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [e for e in events if e["cat"] == "Node" and e["name"].endswith("kernel_time")]
    all_of_it = sum(node["dur"] for node in nodes)
    return sum(node["dur"] for node in nodes if node["args"]["op_name"] == "Conv") / all_of_it


def torchvision_file(model: nn.Module, scene: Scene) -> bytes:
    """Export with torch's older exporter: the newer one, used for ours, cannot trace torchvision's detectors."""
    memory = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Boxes(model),
            (torchvision_input(scene.images[0]),),
            memory,
            dynamo=False,
            opset_version=18,
            input_names=["image"],
            dynamic_axes={"image": {1: "height", 2: "width"}},
        )
    return memory.getvalue()


class Boxes(nn.Module):
    """torchvision's detector for one photo, with only tensors as input and output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (found,) = self.model([image])
        return found["boxes"], found["scores"], found["labels"]


def runs(data: bytes, *, openvino: bool = False) -> Callable[[Any], list[Any]]:
    """Run a file with onnxruntime, like ``focaldet predict``."""
    session = provider_session(data, "openvino" if openvino else "cpu") or onnx_session(data)
    (name,) = (given.name for given in session.get_inputs())
    return lambda images: session.run(None, {name: images})
