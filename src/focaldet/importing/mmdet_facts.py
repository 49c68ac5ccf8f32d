"""Properties of an mmdetection detector that are in its config and not in its tensors."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from focaldet.checks import InputError, check_range, one_line
from focaldet.importing.mmdet_config import find, read_config
from focaldet.photos.resize import MAX_SIZE

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
ONES = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Facts:
    """Properties of one detector.

    Args:
        name: name of the detector.
        mean, std: normalisation, in the order of the channels.
        rgb: whether the network takes RGB rather than BGR.
        caffe: whether the strides are in the 1x1 convolutions.
        pad_to, p6_from, relu_before_p7, quality_on: see ``Variant``.
        size, short_side: limits in pixels for the longer and the shorter side of a scaled image.
        score_threshold, topk_candidates, nms_iou, max_detections: see ``PostProcessConfig``.
        version_1: whether the config is for mmdetection 1, which counts the background as a class.
        options: options of the method.
    """

    name: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rgb: bool = True
    caffe: bool = False
    pad_to: int = 32
    p6_from: Literal["p5", "c5"] = "p5"
    relu_before_p7: bool = False
    quality_on: Literal["box", "class"] = "box"
    size: int = 1333
    short_side: int = 800
    score_threshold: float = 0.05
    topk_candidates: int = 1000
    nms_iou: float = 0.6
    max_detections: int = 100
    version_1: bool = False
    options: dict[str, Any] = field(default_factory=dict)


PRODUCT: dict[str, Any] = {"score": "product", "threshold_on": "class"}
"""Boxes are ranked by class probability times centerness; the threshold applies to the class alone."""

FCOS = Facts(
    "fcos_r50-caffe_fpn_gn-head",
    mean=(102.9801, 115.9465, 122.7717),
    std=ONES,
    rgb=False,
    caffe=True,
    relu_before_p7=True,
    quality_on="class",
    nms_iou=0.5,
    options=PRODUCT | {"radius": None, "distances": "exp", "unit": "px", "box_loss": "log_iou"},
)
FCOS_CENTER = replace(
    FCOS,
    name="fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou",
    mean=IMAGENET_MEAN[::-1],
    quality_on="box",
    nms_iou=0.6,
    options=PRODUCT | {"distances": "relu"},
)
ZOO = {
    "RetinaHead": Facts("retinanet_r50_fpn", p6_from="c5", nms_iou=0.5, options={"smooth_l1_beta": 0.0}),
    "FCOSHead": FCOS,
    "ATSSHead": Facts("atss_r50_fpn", options=PRODUCT),
    "GFLHead": Facts("gfl_r50_fpn", options={"weight_floor": 1.0}),
    "GFocalHead": Facts("gfocal_r50_fpn", options={"weight_floor": 1.0}),
}
"""Type of head -> the model zoo's detector with this head."""


def zoo_facts(head: str, *, tower_bias: bool) -> Facts:
    """Properties of the zoo's detector with this head, for a checkpoint without a config. FCOS's variant has biases."""
    return FCOS_CENTER if head == "FCOSHead" and tower_bias else ZOO[head]


def read_facts(text: str, head: str, classes: int) -> Facts:
    """Read the properties from a config.

    Args:
        text: the config.
        head: type of the head that the tensors have.
        classes: number of classes that the tensors have.

    Raises:
        InputError: the config belongs to another detector, or uses an unsupported feature.
    """
    try:
        config = read_config(text)
    except ValueError as error:
        raise InputError(f"its config is {error}") from error
    try:
        return _facts(config, head, classes)
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"its config has a value of an unexpected type ({one_line(error)})") from error


def _facts(config: dict[str, Any], head: str, classes: int) -> Facts:
    model = _mapping(config.get("model"), "model")
    box_head = _mapping(model.get("bbox_head"), "bbox_head")
    _expect("bbox_head", box_head.get("type"), head)
    _expect("num_classes", box_head.get("num_classes"), (classes, classes + 1))
    backbone = _mapping(model.get("backbone"), "backbone")
    _expect("backbone", backbone.get("type"), "ResNet")
    _expect("backbone.dcn", backbone.get("dcn"), None)
    neck = _mapping(model.get("neck"), "neck")
    _expect("neck", neck.get("type"), "FPN")
    _expect("neck.start_level", neck.get("start_level"), 1)
    _expect("neck.num_outs", neck.get("num_outs"), 5)
    test = _mapping(model.get("test_cfg") or config.get("test_cfg"), "test_cfg")
    nms = _mapping(test.get("nms"), "nms")
    _expect("nms", nms.get("type", "nms"), "nms")
    facts = Facts(
        f"{model.get('type')} with {head}",
        caffe=backbone.get("style", "pytorch") == "caffe",
        p6_from="c5" if _extra_convolutions(neck) == "on_input" else "p5",
        relu_before_p7=bool(neck.get("relu_before_extra_convs", False)),
        score_threshold=float(test.get("score_thr", 0.05)),
        topk_candidates=int(test.get("nms_pre", 1000)),
        nms_iou=float(nms.get("iou_threshold", nms.get("iou_thr", 0.5))),
        max_detections=int(test.get("max_per_img", 100)),
        version_1=box_head["num_classes"] == classes + 1,
        quality_on="class" if head == "FCOSHead" and not box_head.get("centerness_on_reg", False) else "box",
        options=_options(box_head, head),
    )
    return replace(facts, **_normalisation(config, model), **_scale(config))


def _normalisation(config: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Mean, standard deviation and channel order, from the preprocessor, or from the pipeline before version 3."""
    own = model.get("data_preprocessor")
    if isinstance(own, dict):
        rgb, pad_to = own.get("bgr_to_rgb", False), own.get("pad_size_divisor", 1)
    else:
        own = find(_test_pipeline(config), "Normalize") or config.get("img_norm_cfg")
        own = _mapping(own, "img_norm_cfg")
        rgb = own.get("to_rgb", True)
        pad_to = (find(_test_pipeline(config), "Pad") or {}).get("size_divisor", 32)
    mean, std = (tuple(float(x) for x in own.get(name, ())) for name in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise InputError(f"its config: expected mean and std of three channels, found {mean} and {std}")
    return {"mean": mean, "std": std, "rgb": bool(rgb), "pad_to": int(pad_to)}


def _scale(config: dict[str, Any]) -> dict[str, Any]:
    """Limits of the longer and the shorter side."""
    pipeline = _test_pipeline(config)
    for step, key in (("Resize", "scale"), ("MultiScaleFlipAug", "img_scale"), ("Resize", "img_scale")):
        scale = (find(pipeline, step) or {}).get(key)
        if isinstance(scale, list | tuple) and len(scale) == 2 and all(isinstance(side, int) for side in scale):
            for side in scale:
                check_range("its config: scale", side, 32, MAX_SIZE)
            return {"size": max(scale), "short_side": min(scale)}
    return {}


def _test_pipeline(config: dict[str, Any]) -> Any:
    data = config.get("data")
    return config.get("test_pipeline") or config.get("test_dataloader") or (isinstance(data, dict) and data.get("test"))


def _extra_convolutions(neck: dict[str, Any]) -> str:
    """Input of P6; before version 2.2, the config had ``True`` here."""
    extra = neck.get("add_extra_convs", False)
    if extra is True:
        return "on_input" if neck.get("extra_convs_on_inputs", True) else "on_output"
    if extra not in ("on_input", "on_output"):
        raise InputError(f"its config: add_extra_convs: expected 'on_input' or 'on_output', found {extra!r}")
    return str(extra)


def _options(head: dict[str, Any], kind: str) -> dict[str, Any]:
    """Options of the method."""
    loss = head.get("loss_bbox")
    loss = loss if isinstance(loss, dict) else {}
    if kind == "FCOSHead":
        normed = bool(head.get("norm_on_bbox", False))
        return PRODUCT | {
            "radius": float(head.get("center_sample_radius", 1.5)) if head.get("center_sampling", False) else None,
            "distances": "relu" if normed else "exp",
            "unit": "stride" if normed else "px",
            "box_loss": "giou" if loss.get("type") == "GIoULoss" else "log_iou",
        }
    anchors = head.get("anchor_generator", head)
    _expect("anchor_generator", anchors.get("type", "AnchorGenerator"), ("AnchorGenerator", kind))
    _expect("anchor_generator.center_offset", anchors.get("center_offset", 0), 0)
    strides = anchors.get("strides", anchors.get("anchor_strides"))
    _expect("strides", strides, [8, 16, 32, 64, 128])
    expected = (4, 3, [0.5, 1.0, 2.0]) if kind == "RetinaHead" else (8, 1, [1.0])
    for name, value in zip(("octave_base_scale", "scales_per_octave", "ratios"), expected, strict=True):
        _expect(name, anchors.get(name, anchors.get(f"anchor_{name}")), value)
    if kind in ("GFLHead", "GFocalHead"):
        return {"weight_floor": 1.0}
    coder = head.get("bbox_coder")
    stds = coder.get("target_stds") if isinstance(coder, dict) else None
    options: dict[str, Any] = {"stds": tuple(float(x) for x in stds)} if stds else {}
    if kind == "ATSSHead":
        return options | PRODUCT
    if loss.get("type") == "GIoULoss":
        return options | {"box_loss": "giou", "giou_weight": float(loss.get("loss_weight", 1.0))}
    return options | {"smooth_l1_beta": float(loss.get("beta", 1.0)) if loss.get("type") == "SmoothL1Loss" else 0.0}


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"its config: {name}: expected dict(...), found {value!r}")
    return value


def _expect(name: str, found: Any, expected: Any) -> None:
    """Raise InputError unless ``found`` equals ``expected``, or one of them if ``expected`` is a tuple."""
    if found != expected and not (isinstance(expected, tuple) and found in expected):
        raise InputError(f"its config: {name}: expected {expected!r}, found {found!r}")
