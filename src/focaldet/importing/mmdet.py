"""mmdetection's RetinaNet, FCOS, ATSS and GFL (versions 2 and 3), and the authors' GFL and GFLv2 (forks of 1 and 2).

Differences from networks trained here:

- OpenCV scales an image to fit 1333 x 800 pixels; after normalisation it is padded to a multiple of 32.
- Locations start at the image corner; FCOS's lie at the cell centre, and in version 1 half a pixel before it.
- ResNets from Caffe take BGR (their first convolution is reversed here) and have their strides in the 1x1 convolutions.
- RetinaNet computes P6 from C5. P7 is computed from P6, in FCOS after a ReLU.
- FCOS and ATSS rank boxes by class probability times centerness, but apply the threshold to the class alone.

Everything that a config can change is read from the checkpoint's config (``mmdet_facts.py``).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from focaldet.checks import InputError
from focaldet.engine.spec import ModelSpec
from focaldet.importing.checkpoint import Checkpoint
from focaldet.importing.fitting import Import, class_count, renamed, resnet_name, tensor, tower_depth
from focaldet.importing.mmdet_facts import Facts, read_facts, zoo_facts
from focaldet.importing.torchvision_models import COCO_CLASSES
from focaldet.models.detector import Variant
from focaldet.models.postprocess import PostProcessConfig
from focaldet.photos.resize import Resize


@dataclass(frozen=True)
class Head:
    """A head of mmdetection.

    Args:
        method: name of the method here.
        type: name of the head in mmdetection.
        classes, boxes, quality_branch: names of its last convolutions in mmdetection.
        num_anchors: anchors per location.
    """

    method: str
    type: str
    classes: str
    boxes: str
    quality_branch: str | None = None
    num_anchors: int = 1


HEADS = (
    Head("retinanet", "RetinaHead", "retina_cls", "retina_reg", num_anchors=9),
    Head("fcos", "FCOSHead", "conv_cls", "conv_reg", "conv_centerness"),
    Head("atss", "ATSSHead", "atss_cls", "atss_reg", "atss_centerness"),
    Head("gflv2", "GFocalHead", "gfl_cls", "gfl_reg", "reg_conf.0"),
    Head("gfl", "GFLHead", "gfl_cls", "gfl_reg"),
)
"""Known heads; the first one whose convolutions are all present is used."""

UNUSED = re.compile(r"bbox_head\.(integral|distribution_project)\.project|data_preprocessor\..*")
"""Constants that mmdetection stores as tensors."""


def is_mmdet(weights: dict[str, Tensor]) -> bool:
    """Whether the tensors have the names of mmdetection's dense detectors."""
    return any(name.startswith("bbox_head.") for name in weights) and "backbone.conv1.weight" in weights


def read_mmdet(checkpoint: Checkpoint, class_names: tuple[str, ...] | None = None, config: str | None = None) -> Import:
    """Interpret a checkpoint of mmdetection.

    Args:
        checkpoint: content of the file.
        class_names: class names in the order of the outputs; ``None``: those in the checkpoint.
        config: text of the config; ``None``: the one in the checkpoint.

    Raises:
        InputError: the head is unknown, or the config uses a feature that is not supported.
    """
    weights = {name.replace("bbox_head.fcos_", "bbox_head.conv_"): value for name, value in checkpoint.weights.items()}
    head = _head(weights)
    architecture = f"mmdetection's {head.type}"
    rows = tensor(weights, f"bbox_head.{head.classes}.weight", architecture).shape[0]
    classes = class_count(rows, head.num_anchors, architecture)
    text = config or checkpoint.meta.get("cfg") or checkpoint.meta.get("config")
    notes = []
    if isinstance(text, str):
        facts = read_facts(text, head.type, classes)
    else:
        facts = zoo_facts(head.type, tower_bias="bbox_head.cls_convs.0.conv.bias" in weights)
        notes.append(f"no config in the file: assuming mmdetection's {facts.name}; if that is wrong, give --config")
    old = "bbox_head.distribution_project.project" in weights or facts.version_1
    if old and head.method != "gfl":
        raise InputError(
            f"a {head.type} of mmdetection 1, whose anchors and boxes differ; convert it to version 2 in mmdetection"
        )
    names = _classes(classes, class_names, checkpoint.meta)
    _take_rgb(weights, facts, architecture)
    channels = tensor(weights, "neck.lateral_convs.0.conv.weight", architecture).shape[0]
    norm = "bbox_head.cls_convs.0.gn.weight" in weights
    options = dict(facts.options)
    if head.method in ("gfl", "gflv2"):
        options["num_bins"] = tensor(weights, f"bbox_head.{head.boxes}.weight", architecture).shape[0] // 4
    spec = ModelSpec(
        method=head.method,
        class_names=names,
        backbone=resnet_name(weights, "backbone."),
        size=facts.size,
        channels=channels,
        head_depth=tower_depth(weights, "bbox_head.cls_convs."),
        method_options=options,
        network=Variant(
            bottleneck_stride="1x1" if facts.caffe else "3x3",
            p6_from=facts.p6_from,
            relu_before_p7=facts.relu_before_p7,
            tower_norm="group" if norm else "none",
            tower_bias="bbox_head.cls_convs.0.conv.bias" in weights,
            quality_on=facts.quality_on,
            pad_to=facts.pad_to,
        ),
        resize=Resize(short_side=facts.short_side, resampling="opencv"),
        postprocess=PostProcessConfig(
            score_threshold=facts.score_threshold,
            topk_candidates=facts.topk_candidates,
            nms_iou=facts.nms_iou,
            max_detections=facts.max_detections,
            offset=0.5 if old or head.method == "fcos" else 0.0,
            shift_px=-0.5 if old else 0.0,
            last_pixel=old,
        ),
        evaluation_score=facts.score_threshold,
    )
    return Import(architecture, spec, weights, _name_there(head, 3 if norm else 2), UNUSED, notes)


def _head(weights: dict[str, Tensor]) -> Head:
    for head in HEADS:
        parts = [part for part in (head.classes, head.boxes, head.quality_branch) if part]
        if all(f"bbox_head.{part}.weight" in weights for part in parts):
            return head
    first = next(name for name in weights if name.startswith("bbox_head."))
    raise InputError(f"unknown head of mmdetection ({first!r}); expected one of {', '.join(h.type for h in HEADS)}")


def _classes(count: int, given: tuple[str, ...] | None, meta: dict[str, object]) -> tuple[str, ...]:
    if given is not None:
        if len(given) != count:
            raise InputError(f"--class-names: {len(given)} names; the file has {count} classes")
        return given
    data = meta.get("dataset_meta")
    for names in (meta.get("CLASSES"), *((data.get("classes"), data.get("CLASSES")) if isinstance(data, dict) else ())):
        if isinstance(names, list | tuple) and len(names) == count and all(isinstance(name, str) for name in names):
            return tuple(names)
    return COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class {i + 1}" for i in range(count))


def _take_rgb(weights: dict[str, Tensor], facts: Facts, architecture: str) -> None:
    """Add the normalisation in RGB order, and reverse the first convolution if it takes BGR."""
    mean, std = facts.mean, facts.std
    if not facts.rgb:
        mean, std = mean[::-1], std[::-1]
        weights["backbone.conv1.weight"] = tensor(weights, "backbone.conv1.weight", architecture).flip(1)
    weights["data_preprocessor.mean"] = torch.tensor(mean).view(1, 3, 1, 1)
    weights["data_preprocessor.std"] = torch.tensor(std).view(1, 3, 1, 1)


def _name_there(head: Head, layers: int) -> Callable[[str], str | None]:
    """Make the map from names here to names in mmdetection, for towers with ``layers`` layers per convolution."""
    others = renamed(
        [
            (r"mean|std", r"data_preprocessor.\g<0>"),
            (r"backbone\.net\.(.*)", r"backbone.\1"),
            (r"neck\.fpn\.inner_blocks\.(\d)\.0(.*)", r"neck.lateral_convs.\1.conv\2"),
            (r"neck\.fpn\.layer_blocks\.(\d)\.0(.*)", r"neck.fpn_convs.\1.conv\2"),
            (r"neck\.fpn\.extra_blocks\.p6(.*)", r"neck.fpn_convs.3.conv\1"),
            (r"neck\.fpn\.extra_blocks\.p7(.*)", r"neck.fpn_convs.4.conv\1"),
            (r"head\.class_logits(.*)", rf"bbox_head.{head.classes}\1"),
            (r"head\.box_outputs(.*)", rf"bbox_head.{head.boxes}\1"),
            (r"head\.centerness(.*)", rf"bbox_head.{head.quality_branch}\1"),
            (r"head\.quality\.layers(.*)", r"bbox_head.reg_conf\1"),
            (r"head\.scales\.(\d)\.factor", None if head.method == "retinanet" else r"bbox_head.scales.\1.scale"),
        ]
    )

    def name_there(name: str) -> str | None:
        if found := re.fullmatch(r"head\.(class|box)_tower\.(\d+)\.(.*)", name):
            tower = "cls_convs" if found[1] == "class" else "reg_convs"
            block, layer = divmod(int(found[2]), layers)
            return f"bbox_head.{tower}.{block}.{('conv', 'gn')[layer]}.{found[3]}"
        return others(name)

    return name_there
