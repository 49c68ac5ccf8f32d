"""All settings of a training run as one typed dataclass; ``config.yaml`` in a run folder holds them."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_type_hints

from focaldet.checks import InputError, check_range, split_names
from focaldet.data.augmentation import DEFAULT_PRESET, Augmentation
from focaldet.data.rare import checked_repeat
from focaldet.engine.loss_options import BoxLossName, ClassLossName, checked_alpha
from focaldet.engine.option import AT_LEAST_0, AT_LEAST_1, DEVICES, MAX_MINUTES, option
from focaldet.engine.typed_values import check_keys, typed_value
from focaldet.files import read_yaml
from focaldet.photos.resize import MAX_SIZE
from focaldet.photos.tiling import MIN_TILE

DEFAULT_LEVELS: Literal["p3-p7"] = "p3-p7"
"""Pyramid levels if no photos show how large objects are."""

BY_LEVELS = {"p3-p7": {"head_depth": 2, "num_bins": 17}, "p2-p6": {"head_depth": 1, "num_bins": 9}}
"""Options that depend on the levels: p2-p6 has four times as many locations and strides half as long."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a training run; docs/options.md and ``focaldet train --help-all`` explain each.

    Raises:
        InputError: a value has the wrong type or is out of range, or two values contradict each other.
    """

    data: str = option(
        "data",
        cast(str, MISSING),
        "folder of labelled photos; the label format is detected (README lists the formats)",
        metavar="DIR",
        main=True,
    )
    repeat: str = option(
        "data",
        "off",
        "draw photos with rare classes more often: auto; instance (counts objects, too); or the share of photos "
        "below which a class is rare (LVIS's threshold); epochs keep their length",
        metavar="auto|instance|T|off",
    )
    ignore: str | None = option(
        "data",
        None,
        "classes whose boxes count neither as objects nor as background, separated by commas",
        metavar="NAMES",
    )
    verify: bool = option("data", False, "decode every photo first and leave out those that cannot be read")

    method: Literal["retinanet", "fcos", "atss", "gfl", "gflv2", "tood", "rtmdet"] = option(
        "model", "gfl", "detector (docs/methods.md)", main=True
    )
    weights: str | None = option(
        "model",
        None,
        "start from the weights of this trained or imported run; network options not given are taken from it",
        metavar="RUN",
        main=True,
    )
    pretrained: bool | Literal["auto"] = option(
        "model",
        "auto",
        "start from timm's pretrained backbone weights, from the cache or downloaded; auto: if they are available",
        main=True,
    )
    size: int = option(
        "model",
        320,
        "longer side of the image that the network sees, in pixels",
        range=(32, MAX_SIZE),
        metavar="PX",
        main=True,
    )
    tile: int | Literal["auto"] | None = option(
        "model",
        None,
        "train on windows of the photos at their own resolution, with this side in pixels, instead of --size; "
        "auto: chosen from the object sizes (docs/large-photos.md)",
        metavar="N|auto",
    )
    tile_objects: float = option(
        "data",
        0.5,
        "with --tile: share of the windows that are placed around an object; the others cover the photos evenly",
        range=(0, 1),
        metavar="SHARE",
    )
    backbone: str = option("model", "regnetx_002", "any timm network with feature maps at strides 8, 16 and 32")
    backbone_weights: str | None = option(
        "model", None, "safetensors file of backbone weights that uses timm's names", metavar="FILE"
    )
    levels: Literal["auto", "p3-p7", "p2-p6"] = option(
        "model",
        "auto",
        "pyramid levels; p2-p6 starts at stride 4: better for objects below about 20 px, but slower; auto: p2-p6 if "
        "the objects of a third of the classes are that small",
    )
    channels: int = option("model", 64, "channels of the pyramid and of the head's towers", range=(8, 2**12))
    head_depth: int | None = option(
        "model", None, "convolutions in each tower of the head (default: 2, with p2-p6 1)", range=(0, 2**6)
    )
    num_bins: int | None = option(
        "model",
        None,
        "bins of the distribution of each box side; a side reaches num_bins - 1 strides (default: 17, with p2-p6 9)",
        range=(2, 2**10),
    )
    prior_prob: float = option(
        "model", 0.01, "probability of every class at every location when training starts", metavar="P"
    )
    frozen_stages: int = option(
        "model",
        0,
        "number of backbone stages whose weights stay fixed; 1 freezes up to stride 4, 2 up to stride 8, and so on",
        range=(0, 4),
    )
    freeze_norm: bool = option(
        "model", False, "keep the backbone's batch norms fixed (for pretrained weights and small batches)"
    )

    class_loss: ClassLossName = option(  # noqa: RUF009
        "loss",
        "default",
        "classification loss; default: focal for retinanet, fcos and atss, quality_focal for the others; the equalized "
        "ones are for rare classes",
    )
    box_loss: BoxLossName = option(  # noqa: RUF009
        "loss",
        "default",
        "box loss; default: giou, but smooth_l1 (of deltas) for retinanet, the only method that offers it",
    )
    teacher: str | None = option(
        "loss",
        None,
        "also learn from the distributions and scores of this run, a larger gfl, gflv2, tood or rtmdet detector "
        "(docs/methods.md)",
        metavar="RUN",
    )
    alpha: float | str | None = option(
        "loss",
        0.25,
        "weight α of objects in the focal loss; background has 1 - α; none: weight 1 for both; inverse: more for "
        "rare classes; or one number per class: RBC=.1,Platelets=.5",
        metavar="A|inverse|NAME=A,…",
    )
    gamma: float = option(
        "loss", 2.0, "focusing exponent γ of the focal loss; 0 disables focusing", range=AT_LEAST_0, metavar="G"
    )
    beta: float = option(
        "loss", 2.0, "focusing exponent β of the quality focal loss; 0 disables focusing", range=AT_LEAST_0, metavar="B"
    )
    weight_floor: float = option(
        "loss",
        1e-6,
        "lower bound of the box losses' normaliser; mmdetection uses 1 (docs/adr/0003)",
        range=AT_LEAST_0,
    )

    epochs: int = option(
        "schedule", 50, "passes over the training photos; ignored with --minutes", range=AT_LEAST_1, main=True
    )
    minutes: float | None = option(
        "schedule",
        None,
        "train for this many minutes instead; the learning-rate schedule ends with them",
        metavar="MIN",
        main=True,
    )
    patience: int = option(
        "schedule",
        0,
        "stop after this many measurements of val AP without improvement; 0: never",
        range=AT_LEAST_0,
        metavar="N",
    )
    batch: int | Literal["auto"] = option(
        "schedule",
        8,
        "images per step and device; auto: as many as fit into the memory of a CUDA GPU",
        metavar="N|auto",
    )
    accumulate: int = option(
        "schedule",
        1,
        "batches per step: the gradient of N times --batch images in the memory of one batch",
        range=AT_LEAST_1,
    )
    lr: float = option(
        "schedule",
        3e-3,
        "peak learning rate of AdamW at batch 8; scales with the square root of the total batch",
        range=AT_LEAST_0,
    )
    backbone_lr: float = option("schedule", 1.0, "learning-rate multiplier for the backbone", range=AT_LEAST_0)
    weight_decay: float = option(
        "schedule", 0.05, "weight decay of AdamW; biases and norms have none", range=AT_LEAST_0
    )
    warmup: int = option(
        "schedule", 50, "steps of linear warm-up, at most a tenth of a run with --epochs", range=AT_LEAST_0
    )
    clip: float = option("schedule", 10.0, "maximum norm of the gradient; 0 disables clipping", range=AT_LEAST_0)
    ema: float = option(
        "schedule", 0.995, "decay per step of the weights' moving average, which is evaluated and saved"
    )
    seed: int = option(
        "schedule", 0, "random seed for weights, photo order, augmentation and automatic splits", range=(0, 2**32 - 1)
    )

    augment: str = option(
        "augmentation",
        DEFAULT_PRESET,
        "none, light, medium or strong zoom, crop and colour changes; then any extras: mosaic, hue=0.02, … "
        "(docs/augmentation.md)",
        metavar="PRESET,NAME,NAME=X",
    )
    flips: Literal["none", "horizontal", "all"] = option(
        "augmentation",
        "horizontal",
        "random flips; none: a mirror image means something else (digits, signs); all: photos have no natural up "
        "(cells, aerial views)",
        main=True,
    )
    transform: str | None = option(
        "augmentation",
        None,
        "your own transform of photos and boxes, in torchvision's v2 convention",
        metavar="FILE.py:NAME|MODULE:NAME",
    )

    device: str = option(
        "hardware",
        "auto",
        "where to train; auto: the first CUDA GPU, else Apple's if a trial step succeeds on it, else the CPU",
        metavar="auto|cpu|cuda[:N]|mps",
    )
    devices: int = option(
        "hardware", 1, "training processes on this machine, each with its own batch", range=AT_LEAST_1
    )
    nodes: int = option(
        "hardware",
        1,
        "number of machines; run the same command on each, with MASTER_ADDR, MASTER_PORT and its NODE_RANK set, or use "
        "torchrun",
        range=AT_LEAST_1,
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = option(
        "hardware", "auto", "floating-point format; auto uses bfloat16 where the hardware computes it natively"
    )
    workers: int = option(
        "hardware",
        -1,
        "data-loading processes; -1: none on a CPU if decoded photos fit in memory, else cores minus one, at most 8",
        range=(-1, 2**10),
    )
    deterministic: bool = option(
        "hardware", False, "make runs on a CUDA GPU reproducible, but slower; runs on a CPU always are"
    )
    compile: bool = option(
        "hardware", False, "compile the network with torch.compile: takes minutes, then steps on a GPU are faster"
    )
    profile: bool = option("hardware", False, "print a breakdown of the step time when training ends")

    out: str | None = option(
        "output",
        None,
        "run folder to create (default: runs/<name of the data>-<method>, numbered)",
        metavar="RUN",
        main=True,
    )
    resume: bool = option(
        "output",
        False,
        "continue the run in --out; options given with it replace the run's, and more epochs or minutes extend it",
        main=True,
    )
    val_every: int = option(
        "output", 0, "measure AP on the validation split every N epochs; 0: five times per run", range=AT_LEAST_0
    )
    logger: str = option(
        "output",
        "tensorboard",
        "where to log losses and AP, besides metrics.jsonl: tensorboard, csv, wandb, mlflow, several separated by "
        "commas, or none",
        metavar="NAMES",
    )
    max_detections: int | Literal["auto"] = option(
        "output",
        "auto",
        "maximum number of detections per photo; auto: 100, or twice the objects of the fullest training photo if "
        "it has over 50",
        metavar="N|auto",
    )

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            object.__setattr__(self, name, typed_value(name, getattr(self, name), hint))  # frozen from here on
        for name, value in BY_LEVELS.get(self.levels, {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_ranges(asdict(self))
        if isinstance(self.tile, int):
            check_range("tile", self.tile, MIN_TILE, MAX_SIZE)
            object.__setattr__(self, "size", self.tile)
        object.__setattr__(self, "alpha", checked_alpha(self.alpha, self.class_loss))
        checked_repeat(self.repeat)
        if self.box_loss == "smooth_l1" and self.method != "retinanet":
            raise InputError(f"box_loss: {self.method} has no deltas for smooth_l1; use giou or another loss of boxes")
        if not re.fullmatch(DEVICES, self.device):
            raise InputError(f"device: expected auto, cpu, cuda, cuda:N or mps; got {self.device!r}")
        Augmentation.parse(self.augment)
        if self.max_detections != "auto":
            check_range("max_detections", self.max_detections, 1)
        if not 0 < self.prior_prob < 1:
            raise InputError(f"prior_prob: expected a probability in (0, 1), got {self.prior_prob}")
        if self.batch != "auto":
            check_range("batch", self.batch, 1)
        if self.accumulate > 1 and self.devices * self.nodes > 1:
            raise InputError("accumulate: needs devices 1 and nodes 1; several processes share a batch already")
        if (
            self.size <= 32
            and self.batch != "auto"
            and self.batch * self.devices * self.nodes == 1
            and not self.freeze_norm
        ):
            raise InputError(
                f"batch: a single photo of {self.size} px has one location at stride 32, and batch norms need two; use "
                "--batch 2 or a larger --size"
            )
        if not 0 <= self.ema < 1:
            raise InputError(f"ema: expected a decay in [0, 1), got {self.ema}")
        if self.minutes is not None and not 0 < self.minutes <= MAX_MINUTES:
            raise InputError(f"minutes: expected more than 0 and at most {MAX_MINUTES:,}, got {self.minutes}")
        if self.ignore is not None and not split_names(self.ignore):
            raise InputError(f"ignore: expected class names separated by commas, got {self.ignore!r}")
        if self.weights is not None and (self.pretrained is True or self.backbone_weights is not None):
            raise InputError("weights: includes the backbone's weights; leave out pretrained and backbone_weights")
        if self.resume and self.out is None:
            raise InputError("resume: missing --out RUN, the run folder to continue")

    @property
    def images_per_step(self) -> int:
        """Images per step in each process."""
        assert self.batch != "auto"  # train has replaced it
        return self.batch * self.accumulate

    def without_photos(self) -> "TrainConfig":
        """The configuration with default levels instead of ``"auto"``, for a network built without photos."""
        return replace(self, levels=DEFAULT_LEVELS) if self.levels == "auto" else self

    def to_yaml(self) -> str:
        """All settings in the format of ``config.yaml``."""
        import yaml  # imported here: commands without a configuration do not need it

        return str(yaml.safe_dump(asdict(self), sort_keys=False))


RANGES: dict[str, tuple[float, float]] = {
    field.name: field.metadata["range"] for field in fields(TrainConfig) if field.metadata["range"] is not None
}
"""Smallest and largest value of an option, in ``config.yaml`` and in ``model.json``: a network that can be trained can
be read."""


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raise InputError if an option is out of range. ``None`` is always in range, infinity never."""
    for name, value in options.items():
        if name in RANGES and value is not None:
            least, most = RANGES[name]
            check_range(name, value, least)
            check_range(name, value, least, most)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}: expected a finite number, got {value}")


def load_config(file: Path, **changes: Any) -> TrainConfig:
    """Read a ``config.yaml``; ``changes`` replace its fields.

    Raises:
        InputError: no such file, not YAML, an unknown key, or a value that does not fit.
    """
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected a mapping of option to value")
    try:
        check_keys(values, [field.name for field in fields(TrainConfig)])
        values |= changes
        if "data" not in values:
            raise InputError("'data' is missing: the folder of labelled photos")
        return TrainConfig(**values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
