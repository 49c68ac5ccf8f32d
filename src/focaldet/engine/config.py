"""Everything that a training run depends on, as one typed dataclass. ``config.yaml`` in a run folder is one, whole."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from focaldet.checks import InputError, check_range, near_name, split_names
from focaldet.files import read_yaml
from focaldet.photos.resize import MOST_SIZE

MOST_MINUTES = 527_040
"""Of training: a year."""


@dataclass(kw_only=True)
class TrainConfig:
    """
    Args:
        data: folder of labelled photos (COCO JSON, Pascal VOC or YOLO; recognised by what is in it)
        ignore: classes, separated by commas, whose boxes are neither objects nor background
        out: the run folder to make; by default runs/<name of the data>-<method>, numbered
        method: the detector (docs/methods.md)
        class_loss: what trains the classes; default: the method's own (gfl, gflv2: quality_focal; the others: focal)
        backbone: any network of timm with feature maps of strides 8, 16 and 32
        pretrained: fetch timm's pretrained weights of the backbone
        backbone_weights: safetensors file with the backbone's weights, by timm's names
        weights: run to begin with (of train or import); its network, and its size, are taken where not given
        size: longer side of the image the network sees, in pixels
        levels: of the pyramid; p2-p6 begins at stride 4, finds objects of less than about 20 px better and costs more
        channels: width of the pyramid and of the head's towers
        head_depth: convolutions of each tower
        prior_prob: probability of every class at every site when training begins
        alpha: of focal loss: weight of the objects, 1 - alpha that of the background; none: both 1
        gamma: of focal loss: how far easy sites are silenced; 0: not at all
        beta: of quality focal loss: how far sites with about the right score are silenced
        num_bins: bins of each box side's distribution; a side reaches num_bins - 1 strides
        weight_floor: least sum of score weights that the box terms are divided by (mmdetection: 1; see docs/adr/0003)
        epochs: passes over the training photos; not used when minutes is given
        minutes: train for this many minutes instead; the learning-rate schedule ends with them
        batch: images of a step, on each device
        lr: peak learning rate of AdamW for a batch of 8; it is scaled with the square root of the whole batch
        backbone_lr: factor on the learning rate of the backbone
        weight_decay: of AdamW, on weights with more than one axis
        warmup: steps of linear warm-up, at most a tenth of the run
        clip: largest norm of the gradient; 0 for none
        ema: decay of the moving average of the weights, which is what is evaluated and kept
        augment: how far zoom, crop and colour go
        flips: none for what a mirror changes (digits, signs), all for photos without an up (cells, aerial views)
        frozen_stages: stages of the backbone that keep their weights (1: all up to stride 4, 2: up to 8, ...)
        freeze_norm: keep the backbone's batch norms as they are (for pretrained weights and small batches)
        max_detections: boxes found in a photo, at most; auto: 100, and twice what a crowded training photo holds
        val_every: measure AP on the validation split each so many epochs; 0: five times in the run
        seed: of weights, order, augmentation, and of splits that have to be made
        verify: decode all photos first and leave out those that cannot be read
        workers: processes that load data; -1: none when the decoded photos fit in memory, else a core less, at most 8
        device: auto, cpu or gpu
        devices: processes on this machine, each with a batch of its own
        nodes: machines: the same command on each, with MASTER_ADDR, MASTER_PORT and its NODE_RANK set, or by torchrun
        precision: auto takes bfloat16 where the machine computes it natively
        profile: tell at the end where the time of a step went
        resume: continue the run in --out; options given here replace its own, more epochs or minutes extend it
    """

    data: str
    ignore: str | None = None
    out: str | None = None
    method: Literal["retinanet", "fcos", "atss", "gfl", "gflv2"] = "gfl"
    class_loss: Literal["default", "bce", "focal", "quality_focal"] = "default"
    backbone: str = "regnetx_002"
    pretrained: bool = False
    backbone_weights: str | None = None
    weights: str | None = None
    size: int = 320
    levels: Literal["p3-p7", "p2-p6"] = "p3-p7"
    channels: int = 64
    head_depth: int = 2
    prior_prob: float = 0.01
    alpha: float | None = 0.25
    gamma: float = 2.0
    beta: float = 2.0
    num_bins: int = 17
    weight_floor: float = 1e-6
    epochs: int = 50
    minutes: float | None = None
    batch: int = 8
    lr: float = 3e-3
    backbone_lr: float = 1.0
    weight_decay: float = 0.05
    warmup: int = 50
    clip: float = 10.0
    ema: float = 0.995
    augment: Literal["none", "light", "medium", "strong"] = "light"
    flips: Literal["none", "horizontal", "all"] = "horizontal"
    frozen_stages: int = 0
    freeze_norm: bool = False
    max_detections: int | Literal["auto"] = "auto"
    val_every: int = 0
    seed: int = 0
    verify: bool = False
    workers: int = -1
    device: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    profile: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            setattr(self, name, typed_value(name, getattr(self, name), hint))
        check_ranges(asdict(self))
        if self.max_detections != "auto":
            check_range("max_detections", self.max_detections, 1)
        if not 0 < self.prior_prob < 1:
            raise InputError(f"prior_prob: expected a probability in (0, 1), got {self.prior_prob}")
        if self.frozen_stages > 4:
            raise InputError(f"frozen_stages: expected at most 4, all of the backbone, got {self.frozen_stages}")
        if self.size <= 32 and self.batch * self.devices * self.nodes == 1 and not self.freeze_norm:
            raise InputError(
                f"batch: a single photo of {self.size} px has one location at stride 32, and batch norms need two; use "
                "--batch 2 or a larger --size"
            )
        if self.seed >= 2**32:
            raise InputError(f"seed: expected less than 2**32, as NumPy does, got {self.seed}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema: expected a decay in [0, 1), got {self.ema}")
        if self.minutes is not None and not 0 < self.minutes <= MOST_MINUTES:
            raise InputError(f"minutes: expected more than 0, and at most {MOST_MINUTES:,}, got {self.minutes}")
        if self.ignore is not None and not split_names(self.ignore):
            raise InputError(f"ignore: expected names of classes, separated by commas, got {self.ignore!r}")
        if self.weights is not None and (self.pretrained or self.backbone_weights is not None):
            raise InputError("weights: has the backbone's weights too; leave out pretrained and backbone_weights")
        if self.resume and self.out is None:
            raise InputError("resume: give the run folder to continue with --out RUN")

    def to_yaml(self) -> str:
        """The whole configuration, as ``config.yaml`` holds it."""
        import yaml  # here: a command that needs no configuration runs without it

        return str(yaml.safe_dump(asdict(self), sort_keys=False))


RANGES: dict[str, tuple[float, float]] = {
    "size": (32, MOST_SIZE),
    "channels": (8, 2**12),
    "head_depth": (0, 2**6),
    "num_bins": (2, 2**10),
    "alpha": (0, 1),
    **dict.fromkeys(("epochs", "batch", "devices", "nodes"), (1, 2**31)),
    "workers": (-1, 2**10),
    **dict.fromkeys(("frozen_stages", "warmup", "val_every", "seed"), (0, math.inf)),
    **dict.fromkeys(("lr", "backbone_lr", "weight_decay", "clip", "weight_floor", "gamma", "beta"), (0, math.inf)),
}
"""Least and most of an option, in ``config.yaml`` and in ``model.json``: a network that can be trained can be read."""


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raise InputError where an option is beyond its range; nothing (``None``) is in every range, infinity in none."""
    for name, value in options.items():
        if name in RANGES and value is not None:
            least, most = RANGES[name]
            check_range(name, value, least)
            check_range(name, value, least, most)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}: expected a finite number, got {value}")


Options = TypeVar("Options")


def typed_dataclass(kind: type[Options], values: Any) -> Options:
    """Options of a dataclass as a file holds them, each checked.

    Raises:
        InputError: not a mapping, an unknown key, or a value of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{kind.__name__.lower()}: expected a mapping of option to value, got {values!r}")
    hints = get_type_hints(kind)
    _check_keys(values, hints)
    options = {name: typed_value(name, value, hints[name]) for name, value in values.items()}
    made = kind(**options)  # with its own ranges
    check_ranges(options)
    return made


def _check_keys(values: dict[Any, Any], known: Iterable[str]) -> None:
    for key in values:
        if key not in known:
            raise InputError(f"unknown key {key!r}; {near_name(str(key), known)}")


def typed_value(name: str, value: Any, hint: Any) -> Any:
    """The value as its field's type; a YAML file, unlike a command line, has not been checked."""
    kinds = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    if get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise InputError(f"{name}: unknown value {value!r}; {near_name(str(value), get_args(hint))}")
    if isinstance(value, str) and any(value in get_args(kind) for kind in kinds if get_origin(kind) is Literal):
        return value
    if get_origin(hint) is tuple and isinstance(value, list | tuple) and len(value) == len(get_args(hint)):
        return tuple(typed_value(name, part, kind) for part, kind in zip(value, get_args(hint), strict=True))
    if isinstance(value, Path) and str in kinds:
        return str(value)
    if float in kinds and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML reads 2e-3, without a point, as a word
            value = float(value)
    if any(type(value) is kind for kind in kinds):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}: expected a number, got {value}")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{name}: expected a word, got {value!r}")
        return value
    words = " or ".join(_words(kind) for kind in kinds)
    raise InputError(f"{name}: expected {words}, got {value!r}")


def _words(kind: Any) -> str:
    """What a type is called in a message."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return "nothing" if kind is NoneType else str(kind.__name__)


def load_config(file: Path, **changes: Any) -> TrainConfig:
    """Read a ``config.yaml``; ``changes`` replace its fields.

    Raises:
        InputError: no such file, not YAML, a key that is none of the fields, or a value that does not fit.
    """
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected a mapping of option to value")
    try:
        _check_keys(values, [field.name for field in fields(TrainConfig)])
        values |= changes
        if "data" not in values:
            raise InputError("'data' is missing: the folder of labelled photos")
        return TrainConfig(**values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
