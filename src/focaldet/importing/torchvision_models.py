"""torchvision's RetinaNet and FCOS: ``retinanet_resnet50_fpn``, ``..._v2`` and ``fcos_resnet50_fpn``.

Differences from networks trained here:

- The shorter side of an image is scaled to 800 pixels, the longer one to at most 1333, without antialiasing or rounding
  of colours. After normalisation the image is padded to a multiple of 32.
- Locations start at the image corner; their spacing is the padded image's side divided by the map's.
- Anchors have whole pixels. There is a class column for the background, which is dropped here together with the
  columns of COCO's unused ids.
- v2 computes P6 from C5. RetinaNet's towers have no norm (v1); FCOS's have a bias before it.

The published weights of ``retinanet_resnet50_fpn`` were trained with batch norms without ε. The file does not say so;
it is recognised by its checksum.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from focaldet.checks import InputError
from focaldet.engine.spec import ModelSpec
from focaldet.importing.checkpoint import Checkpoint
from focaldet.importing.fitting import Import, class_count, renamed, resnet_name, tensor, tower_depth
from focaldet.models.detector import Variant
from focaldet.models.postprocess import PostProcessConfig
from focaldet.photos.resize import Resize

CLASSES = "head.classification_head."
BOXES = "head.regression_head."

BATCH_NORM_EPS = 1e-5
"""ε of all batch norms here."""

WITHOUT_EPS = "eeacb38b"
"""First digits of the SHA-256 of the published retinanet_resnet50_fpn, as in its file name."""

COCO = tuple(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""91 names: the background and COCO's ids 1 to 90, with ``"N/A"`` for unused ids."""

COCO_COLUMNS = [i for i, name in enumerate(COCO) if name not in ("__background__", "N/A")]
COCO_CLASSES = tuple(COCO[i] for i in COCO_COLUMNS)
"""Names of the 80 classes; ``COCO_COLUMNS`` has their indices among the 91."""


def is_torchvision(weights: dict[str, Tensor]) -> bool:
    """Whether the tensors have the names of torchvision's dense detectors."""
    return f"{CLASSES}cls_logits.weight" in weights


def read_torchvision(
    checkpoint: Checkpoint, class_names: tuple[str, ...] | None = None, batch_norm_eps: float | None = None
) -> Import:
    """Interpret a state dict of torchvision.

    Args:
        checkpoint: content of the file.
        class_names: class names in the order of the columns, with or without the background's.
        batch_norm_eps: ε of its frozen batch norms; ``None``: torchvision's.

    Raises:
        InputError: it is none of the three networks, or has another number of classes.
    """
    weights = dict(checkpoint.weights)
    fcos = f"{BOXES}bbox_ctrness.weight" in weights
    norm = fcos or f"{CLASSES}conv.0.1.weight" in weights
    p6 = tensor(weights, "backbone.fpn.extra_blocks.p6.weight", "torchvision's RetinaNet or FCOS")
    channels, p6_channels = p6.shape[:2]
    architecture = "torchvision's " + (
        "fcos_resnet50_fpn" if fcos else "retinanet_resnet50_fpn" + ("_v2" if norm else "")
    )
    num_anchors = 1 if fcos else 9
    columns = class_count(
        tensor(weights, f"{CLASSES}cls_logits.weight", architecture).shape[0], num_anchors, architecture
    )
    names, kept = _classes(columns, class_names)
    for part, axes in (("weight", 4), ("bias", 1)):
        rows = tensor(weights, f"{CLASSES}cls_logits.{part}", architecture, axes)
        if rows.shape[0] != num_anchors * columns:
            raise InputError(
                f"does not fit {architecture}: '{CLASSES}cls_logits.{part}' has {rows.shape[0]} rows, expected "
                f"{num_anchors * columns}"
            )
        weights[f"{CLASSES}cls_logits.{part}"] = rows.view(num_anchors, columns, *rows.shape[1:])[:, kept].flatten(0, 1)
    notes = []
    if batch_norm_eps is None and _is_published_without_eps(checkpoint.file):
        batch_norm_eps = 0.0
        notes.append("these are the published COCO weights: batch norms without ε")
    if batch_norm_eps is not None:
        _fold_eps(weights, batch_norm_eps)

    postprocess = PostProcessConfig(nms_iou=0.5, max_detections=300, keep_empty=True, offset=0.0, steps="fitted")
    options: dict[str, Any] = {"whole_px": True, "smooth_l1_beta": 0.0, "box_loss": "giou" if norm else "smooth_l1"}
    if fcos:
        postprocess = PostProcessConfig(score_threshold=0.2, keep_empty=True, offset=0.0, steps="fitted")
        options = {"distances": "relu"}
    spec = ModelSpec(
        method="fcos" if fcos else "retinanet",
        class_names=names,
        backbone=resnet_name(weights, "backbone.body."),
        size=1333,
        channels=channels,
        head_depth=tower_depth(weights, f"{CLASSES}conv."),
        method_options=options,
        network=Variant(
            p6_from="p5" if p6_channels == channels else "c5",
            tower_norm="group" if norm else "none",
            tower_bias=fcos,
            pad_to=32,
        ),
        resize=Resize(short_side=800, resampling="torchvision"),
        postprocess=postprocess,
        evaluation_score=postprocess.score_threshold,
    )
    name_there = _name_there(
        flat_towers=fcos or f"{CLASSES}conv.0.weight" in weights,
        old_pyramid="backbone.fpn.inner_blocks.0.weight" in weights,
        layers=3 if norm else 2,
    )
    return Import(architecture, spec, weights, name_there, notes=notes)


def _classes(columns: int, given: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[int]]:
    """Class names and their columns."""
    if given is not None:
        if len(given) not in (columns, columns - 1):
            raise InputError(
                f"--class-names: {len(given)} names; the file has {columns} class columns; expected {columns - 1} "
                f"names (the first column is the background) or {columns}"
            )
        return given, list(range(columns - len(given), columns))
    if columns == len(COCO):
        return COCO_CLASSES, COCO_COLUMNS
    if columns < 2:
        raise InputError("its only class column is the background's; name it with --class-names to keep it")
    return tuple(f"class {i}" for i in range(1, columns)), list(range(1, columns))


def _name_there(*, flat_towers: bool, old_pyramid: bool, layers: int) -> Callable[[str], str | None]:
    """Make the map from names here to names in torchvision.

    Args:
        flat_towers: whether a tower's layers are numbered consecutively instead of per convolution.
        old_pyramid: whether the pyramid's convolutions have no index of their own.
        layers: layers of a tower per convolution.
    """
    others = renamed(
        [
            (r"mean|std|head\.scales\..*", None),
            (r"backbone\.net\.(.*)", r"backbone.body.\1"),
            (
                r"neck\.fpn\.(inner_blocks|layer_blocks)(\.\d)\.0(.*)",
                rf"backbone.fpn.\1\2{'' if old_pyramid else '.0'}\3",
            ),
            (r"neck\.fpn\.(.*)", r"backbone.fpn.\1"),
            (r"head\.class_logits(.*)", rf"{CLASSES}cls_logits\1"),
            (r"head\.box_outputs(.*)", rf"{BOXES}bbox_reg\1"),
            (r"head\.centerness(.*)", rf"{BOXES}bbox_ctrness\1"),
        ]
    )

    def name_there(name: str) -> str | None:
        if found := re.fullmatch(r"head\.(class|box)_tower\.(\d+)\.(.*)", name):
            layer = int(found[2])
            place = f"{layer}" if flat_towers else f"{layer // layers}.{layer % layers}"
            return f"{CLASSES if found[1] == 'class' else BOXES}conv.{place}.{found[3]}"
        return others(name)

    return name_there


def _is_published_without_eps(file: Path) -> bool:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest().startswith(WITHOUT_EPS)


def _fold_eps(weights: dict[str, Tensor], eps: float) -> None:
    """Scale the batch norms so that their output with the ε used here equals the original."""
    for name in [name for name in weights if name.endswith(".running_var")]:
        variance, weight = weights[name].double(), name.removesuffix("running_var") + "weight"
        if weight not in weights or weights[weight].shape != variance.shape:
            raise InputError(f"{weight!r}: expected the shape of {name!r}, {tuple(variance.shape)}")
        factor = ((variance + BATCH_NORM_EPS) / (variance + eps).clamp(min=torch.finfo(torch.float32).tiny)).sqrt()
        weights[weight] = (weights[weight] * factor).float()
