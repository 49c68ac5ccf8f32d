"""From names and numbers to a network and its method: what a run and its ``model.json`` agree on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from focaldet.checks import split_names
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import EvalTransform
from focaldet.engine.average_precision import EVALUATION_SCORE
from focaldet.engine.config import TrainConfig
from focaldet.methods.atss import ATSS
from focaldet.methods.fcos import FCOS
from focaldet.methods.gfl import GFL
from focaldet.methods.gflv2 import GFLv2
from focaldet.methods.method import Method
from focaldet.methods.retinanet import RetinaNet
from focaldet.models.backbone import Backbone
from focaldet.models.detector import DenseDetector, Variant
from focaldet.models.fpn import backbone_strides
from focaldet.models.postprocess import BoxReader, PostProcess, Reading
from focaldet.photos.resize import Resize

METHODS: dict[str, type[Method]] = {"retinanet": RetinaNet, "fcos": FCOS, "atss": ATSS, "gfl": GFL, "gflv2": GFLv2}
"""Name of a method -> its class."""

FORMAT = 1
"""Of ``model.json``; raised when an older focaldet could not read a new one."""


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed, beside the weights, to make the detector again.

    Args:
        method: a key of ``METHODS``.
        method_options: its fields.
        class_names: C names, in the order of the labels.
        backbone: a network of timm.
        size: longer side of the image that the network sees, pixels.
        channels, head_depth: of pyramid and head.
        network, resize, reading: what networks of other codes do in their own way, see ``focaldet.engine.importing``.
        evaluation_score: least score of a detection that counts in AP.
        ignored_classes: names of labels that are neither objects nor background, in training and in AP.
    """

    method: str
    class_names: tuple[str, ...]
    backbone: str
    size: int
    channels: int
    head_depth: int
    method_options: dict[str, Any] = field(default_factory=dict)
    network: Variant = field(default_factory=Variant)
    resize: Resize = field(default_factory=Resize)
    reading: Reading = field(default_factory=Reading)
    evaluation_score: float = EVALUATION_SCORE
    ignored_classes: tuple[str, ...] = ()

    @property
    def offset(self) -> float:
        """Centre of a cell, in strides."""
        return self.reading.offset

    @property
    def transform(self) -> EvalTransform:
        """From a photo to what the network sees."""
        return EvalTransform(self.size, self.resize)

    def evaluation_reader(self, method: BoxReader, strides: tuple[int, ...]) -> PostProcess:
        """The post-processing with which AP is measured."""
        return PostProcess(method, strides, self.reading, score_threshold=self.evaluation_score)

    def build(self, *, pretrained: bool = False, prior_prob: float = 0.01) -> tuple[DenseDetector, Method]:
        """The network, freshly initialised, and its method.

        Args:
            pretrained: fetch the backbone's weights.
            prior_prob: see ``DenseHead``.
        """
        method = METHODS[self.method](**self.method_options)
        net = DenseDetector(
            Backbone(self.backbone, backbone_strides(self.network.levels), pretrained=pretrained),
            len(self.class_names),
            method.box_outputs,
            anchors=method.anchors_per_location,
            quality=method.quality,
            channels=self.channels,
            head_depth=self.head_depth,
            prior_prob=prior_prob,
            variant=self.network,
        )
        return net, method

    def to_json(self, strides: tuple[int, ...]) -> dict[str, Any]:
        """What ``model.json`` holds."""
        from focaldet import __version__

        # Every option, also those left to a default: a later default must not change what this file means.
        options = asdict(METHODS[self.method](**self.method_options))
        return {
            "format": FORMAT,
            "focaldet": __version__,
            **asdict(self),
            "method_options": options,
            "strides": list(strides),
        }


def room_for(records: Sequence[ImageRecord]) -> int:
    """Detections that a photo needs room for: twice the objects of the fullest photo, in full hundreds.

    Beside each object that is found, a detector has boxes that are not right, or not sure; and photos that nobody has
    labelled yet may be fuller.
    """
    return 100 * max(1, math.ceil(2 * max((record.num_objects for record in records), default=0) / 100))


def with_room(
    spec: ModelSpec, config: TrainConfig, records: Sequence[ImageRecord], say: Callable[[str], None]
) -> ModelSpec:
    """The model with as many detections a photo as were asked for, else as the training photos need.

    Args:
        records: of the training photos.
        say: prints a line for the person who waits.
    """
    if config.max_detections != "auto":
        return replace(spec, reading=spec.reading.with_room(int(config.max_detections)))
    most = room_for(records)
    if most <= spec.reading.max_detections:
        return spec
    fullest = max(record.num_objects for record in records)
    say(
        f"the fullest training photo has {fullest} objects: a photo can have up to {most} detections, and all of them "
        "count in AP; another number: --max-detections"
    )
    return replace(spec, reading=spec.reading.with_room(most))


def spec_of(config: TrainConfig, class_names: tuple[str, ...]) -> ModelSpec:
    """The model that a configuration asks for; its options of other methods are left out."""
    own = {option.name for option in fields(METHODS[config.method])}
    shared = ("alpha", "gamma", "beta", "num_bins", "weight_floor")
    options: dict[str, Any] = {name: getattr(config, name) for name in shared if name in own}
    if config.class_loss != "default":
        options["class_loss"] = config.class_loss
    return ModelSpec(
        method=config.method,
        class_names=class_names,
        backbone=config.backbone,
        size=config.size,
        channels=config.channels,
        head_depth=config.head_depth,
        method_options=options,
        network=Variant(levels=config.levels),
        ignored_classes=split_names(config.ignore or ""),
    )
