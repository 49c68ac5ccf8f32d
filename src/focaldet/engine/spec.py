"""The description of a model, ``model.json``, and how the network and its method are built from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from focaldet.checks import InputError, near_name, one_line, split_names
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import EvalTransform
from focaldet.engine.config import TrainConfig, check_ranges
from focaldet.engine.loss_options import alpha_by_class
from focaldet.engine.typed_values import check_keys, typed_value
from focaldet.evaluation.average_precision import EVALUATION_SCORE
from focaldet.files import open_regular, read_json, replacing, write_json
from focaldet.methods.atss import ATSS
from focaldet.methods.fcos import FCOS
from focaldet.methods.gfl import GFL
from focaldet.methods.gflv2 import GFLv2
from focaldet.methods.method import Method
from focaldet.methods.retinanet import RetinaNet
from focaldet.methods.rtmdet import RTMDet
from focaldet.methods.tood import TOOD
from focaldet.models.backbone import Backbone
from focaldet.models.detector import DenseDetector, Variant
from focaldet.models.fpn import backbone_strides
from focaldet.models.postprocess import BoxDecoder, PostProcess, PostProcessConfig
from focaldet.photos.resize import Resize
from focaldet.records.calibration import remove_calibration
from focaldet.runtime.windows import Tiling, tiling_for

METHODS: dict[str, type[Method]] = {
    "retinanet": RetinaNet,
    "fcos": FCOS,
    "atss": ATSS,
    "gfl": GFL,
    "gflv2": GFLv2,
    "tood": TOOD,
    "rtmdet": RTMDet,
}
"""Name of a method -> its class."""

Options = TypeVar("Options")

FORMAT = 1
"""Format of ``model.json``; increased when older versions of focaldet cannot read new files."""


SPEC_TYPES = {
    "method": str,
    "class_names": list,
    "backbone": str,
    "size": int,
    "channels": int,
    "head_depth": int,
    "method_options": dict,
}
"""Required key of ``model.json`` -> type of its value."""

GROUPS = {"network": Variant, "resize": Resize, "reading": PostProcessConfig}
"""Optional key of ``model.json`` -> dataclass of its options."""

OLDER_NAMES = {"postprocess": "reading", "topk_candidates": "candidates"}
"""Field -> its key in ``model.json``, which keeps its original names."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to rebuild a detector, except its weights.

    Args:
        method: a key of ``METHODS``.
        method_options: fields of its class.
        class_names: C names, in the order of the labels.
        backbone: name of a timm network.
        size: longer side of the network's input, in pixels.
        channels, head_depth: width of pyramid and head; convolutions per tower.
        network, resize, postprocess: differences in networks from other libraries, see ``focaldet.importing``.
        evaluation_score: lowest score of a detection that counts in AP.
        ignored_classes: names of labels that are neither objects nor background, in training and in AP.
        tile: side in pixels of the windows that the network is trained on, at the photo's own resolution, and equal to
            ``size``; ``None``: whole photos, scaled to ``size``.
        object_px: median √area of the training objects as the network sees them, or ``None`` if unknown.
        teacher: name of the run that taught it, or ``None``; the teacher is not needed after training.
        largest_px: longer side in pixels of the photo that 98 of 100 training objects do not exceed, or ``None``.
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
    postprocess: PostProcessConfig = field(default_factory=PostProcessConfig)
    evaluation_score: float = EVALUATION_SCORE
    ignored_classes: tuple[str, ...] = ()
    tile: int | None = None
    object_px: float | None = None
    largest_px: int | None = None
    teacher: str | None = None

    @property
    def offset(self) -> float:
        """Centre of a cell, in strides."""
        return self.postprocess.offset

    @property
    def transform(self) -> EvalTransform:
        """The transform from a photo to the network's input."""
        return EvalTransform(self.size, self.resize)

    def tiling(
        self, tile: int | None = None, overlap: float | None = None, *, max_detections: int | None = None
    ) -> Tiling | None:
        """Windows in which to detect, see ``tiling_for``; ``None``: each photo as a whole."""
        return tiling_for(
            tile,
            overlap,
            trained_tile=self.tile,
            largest_px=self.largest_px,
            size=self.size,
            nms_iou=self.postprocess.nms_iou,
            max_detections=max_detections,
        )

    def evaluation_postprocess(self, method: BoxDecoder, strides: tuple[int, ...]) -> PostProcess:
        """The post-processing for measuring AP."""
        return PostProcess(method, strides, self.postprocess, score_threshold=self.evaluation_score)

    def build(self, *, pretrained: bool = False, prior_prob: float = 0.01) -> tuple[DenseDetector, Method]:
        """Build the network, freshly initialised, and its method.

        Args:
            pretrained: download weights for the backbone.
            prior_prob: see ``DenseHead``.
        """
        method = METHODS[self.method](**self.method_options)
        net = DenseDetector(
            Backbone(self.backbone, backbone_strides(self.network.levels), pretrained=pretrained),
            len(self.class_names),
            method.num_box_channels,
            num_anchors=method.anchors_per_location,
            quality_branch=method.quality_branch,
            channels=self.channels,
            head_depth=self.head_depth,
            prior_prob=prior_prob,
            variant=self.network,
        )
        return net, method

    def to_json(self, strides: tuple[int, ...]) -> dict[str, Any]:
        """Content of ``model.json``."""
        from focaldet import __version__

        # All options, even those at their defaults: a later default must not change the meaning of this file.
        options = asdict(METHODS[self.method](**self.method_options))
        return {
            "format": FORMAT,
            "focaldet": __version__,
            **_file_keys(asdict(self)),
            "method_options": options,
            "strides": list(strides),
        }


def room_for(records: Sequence[ImageRecord]) -> int:
    """Detection limit for these photos: twice the objects of the fullest photo, rounded up to full hundreds.

    A detector also reports wrong and uncertain boxes, and new photos may contain more objects.
    """
    return 100 * max(1, math.ceil(2 * max((record.num_objects for record in records), default=0) / 100))


def with_room(
    spec: ModelSpec, config: TrainConfig, records: Sequence[ImageRecord], say: Callable[[str], None]
) -> ModelSpec:
    """Set the model's detection limit: the one in ``config``, else what the training photos need.

    Args:
        records: the training photos.
        say: prints a line.
    """
    if config.max_detections != "auto":
        return replace(spec, postprocess=spec.postprocess.with_room(int(config.max_detections)))
    most = room_for(records)
    if most <= spec.postprocess.max_detections:
        return spec
    fullest = max(record.num_objects for record in records)
    say(
        f"the fullest training photo has {fullest:,} objects: the limit is {most:,} detections per photo, and all of "
        "them count in AP; change it with --max-detections"
    )
    return replace(spec, postprocess=spec.postprocess.with_room(most))


def spec_of(config: TrainConfig, class_names: tuple[str, ...]) -> ModelSpec:
    """Describe the model of a configuration; options of other methods are left out.

    ``levels: auto`` means p3-p7 here; ``train`` chooses levels by its photos before (``with_levels``).
    """
    config = config.without_photos()
    assert config.levels != "auto"
    assert config.head_depth is not None
    own = {option.name for option in fields(METHODS[config.method])}
    shared = ("gamma", "beta", "num_bins", "weight_floor")
    options: dict[str, Any] = {name: getattr(config, name) for name in shared if name in own}
    options["alpha"] = alpha_by_class(config.alpha, class_names)
    for name in ("class_loss", "box_loss"):
        if getattr(config, name) != "default":
            options[name] = getattr(config, name)
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
        tile=config.tile if isinstance(config.tile, int) else None,
        teacher=config.teacher,
    )


def check_shapes(file: Path, spec: ModelSpec) -> None:
    """Raise InputError unless a safetensors file holds the tensors of this network. Loads neither into memory."""
    open_regular(file).close()
    try:
        with safe_open(file, framework="pt") as opened:
            there = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)})") from error
    with torch.device("meta"):
        here = {name: tuple(value.shape) for name, value in spec.build()[0].state_dict().items()}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            found, expected = (state.get(name, "nothing") for state in (there, here))
            raise InputError(
                f"{file}: does not fit {file.parent / 'model.json'} ({name}: {found}, expected {expected})"
            )


def read_spec(file: Path) -> ModelSpec:
    """Read a ``model.json``.

    Raises:
        InputError: the file is missing or damaged, lacks a key, or has a newer format.
    """
    values = read_json(file)
    if not isinstance(values, dict) or "format" not in values:
        raise InputError(f"{file}: not a model of focaldet ('format' is missing)")
    if values["format"] != FORMAT:
        raise InputError(
            f"{file}: format {values['format']}, written by focaldet {values.get('focaldet', '?')}; this focaldet "
            f"reads format {FORMAT}: install that version, or train again"
        )
    missing = sorted(SPEC_TYPES.keys() - values.keys())
    if missing:
        raise InputError(f"{file}: {missing[0]!r} is missing")
    try:
        return _spec(values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _spec(values: dict[str, Any]) -> ModelSpec:
    """Build the description from the values of a ``model.json``, checking each."""
    spec = {key: typed_value(key, values[key], kind) for key, kind in SPEC_TYPES.items()}
    check_ranges(spec)
    names, method = spec["class_names"], spec["method"]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names: expected at least one name, got {names!r}")
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; {near_name(method, METHODS)}")
    if method == "fcos":  # in files without it, this was the default
        spec["method_options"].setdefault("distances", "exp")
    try:
        options = asdict(typed_dataclass(METHODS[method], spec["method_options"]))
    except InputError as error:
        raise InputError(f"method_options: {error}") from error
    groups: dict[str, Any] = {
        key: typed_dataclass(group, _field_names(typed_value(key, values.get(key, {}), dict)))
        for key, group in GROUPS.items()
    }
    ignored = typed_value("ignored_classes", values.get("ignored_classes", []), list)
    tile = typed_value("tile", values.get("tile"), int | None)
    if tile is not None and tile != spec["size"]:
        raise InputError(f"tile: expected nothing or the size, {spec['size']}, got {tile}")
    facts: dict[str, Any] = {
        "object_px": typed_value("object_px", values.get("object_px"), float | None),
        "largest_px": typed_value("largest_px", values.get("largest_px"), int | None),
        "teacher": typed_value("teacher", values.get("teacher"), str | None),
    }
    score = typed_value("evaluation_score", values.get("evaluation_score", EVALUATION_SCORE), float)
    spec |= {"class_names": tuple(names), "method_options": options}
    return ModelSpec(
        **spec,
        **_field_names(groups),
        evaluation_score=score,
        ignored_classes=tuple(map(str, ignored)),
        tile=tile,
        **facts,
    )


def _file_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Fields and their values by the keys of ``model.json``."""
    return {
        OLDER_NAMES.get(name, name): _file_keys(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }


def _field_names(values: dict[str, Any]) -> dict[str, Any]:
    """The values under keys of ``model.json`` by the names of their fields."""
    names = {key: name for name, key in OLDER_NAMES.items()}
    return {names.get(key, key): value for key, value in values.items()}


def save_model(run: Path, spec: ModelSpec, net: DenseDetector) -> None:
    """Write ``model.safetensors`` and ``model.json``, each completely or not at all.

    Removes the run's calibration, which belongs to other weights.
    """
    remove_calibration(run)
    with replacing(run / "model.safetensors") as beside:
        # Not save_file: its error on a full disk lacks an errno.
        beside.write_bytes(save({key: value.cpu().contiguous() for key, value in net.state_dict().items()}))
    write_json(run / "model.json", spec.to_json(net.strides))


def typed_dataclass(kind: type[Options], values: Any) -> Options:
    """Build a dataclass from the values in a file and check each of them.

    Raises:
        InputError: not a mapping, an unknown key, or a value that has the wrong type or is out of range.
    """
    if not isinstance(values, dict):
        raise InputError(f"{kind.__name__.lower()}: expected a mapping of option to value, got {values!r}")
    hints = get_type_hints(kind)
    check_keys(values, hints)
    options = {name: typed_value(name, value, hints[name]) for name, value in values.items()}
    made = kind(**options)  # checks its own ranges
    check_ranges(options)
    return made
