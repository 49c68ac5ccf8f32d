"""Record the outputs of mmdetection's own detectors, for tests that run without it: tests/fixtures/mmdet.

In an environment with torch and focaldet (a separate one, since mmdetection's own requirements would change others):

    pip install --no-deps mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7 addict yapf platformdirs termcolor rich \
        markdown-it-py mdurl pygments six python-dateutil shapely terminaltables opencv-python-headless pycocotools
    python tests/tools/mmdet_fixtures.py

One safetensors file per detector contains random maps of its head for two small images, with mmdetection's loss terms,
gradients and detections for them; and the detections of the whole network on one small image, with the weights
``weights_of(name, shape)``. The file's header has its configuration.
"""

import os
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.ops import nms

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "mmdet"

CONFIGS = {
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "fcos_center": "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
    "atss": "atss/atss_r50_fpn_1x_coco.py",
    "gfl": "gfl/gfl_r50_fpn_1x_coco.py",
}
"""Name of a fixture -> mmdetection's configuration."""

NUM_CLASSES, CHANNELS = 3, 64
IMAGE = (64, 96)
TRUTH = (
    ([[3.0, 4, 40, 44], [50, 2, 92, 30], [52, 36, 90.5, 62]], [2, 0, 1]),
    ([[0.0, 0, 96, 64], [60.5, 20.25, 81, 61]], [1, 1]),
)
"""Boxes and labels of each image. No object is the second best of another's best anchor, because focaldet decides that
case differently (``assign_max_iou``)."""


def weights_of(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights that are equal on every machine: random numbers seeded by the name, scaled to keep features."""
    values = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()
    if name.endswith("running_var"):
        return 1 + 0.1 * values.abs()
    if len(shape) == 4:
        fan_in = shape[1] * shape[2] * shape[3]
        # mmdetection lets no side shrink more than 62.5 times, torchvision and we do: far beyond what is trained.
        gain = 0.2 if name.endswith("retina_reg.weight") else 2.0 if "conv" in name else 1.0
        return values * (gain / fan_in) ** 0.5
    centre = -2.0 if name.endswith(("_cls.bias",)) else 0.0
    if name.endswith(("bn1.weight", "bn2.weight", "gn.weight", "scale")) or "downsample.1.weight" in name:
        centre = 1.0
    if name.endswith("bn3.weight"):
        centre = 0.3
    return centre + 0.1 * values


def image() -> Tensor:
    """``(3, 64, 96)`` uint8 RGB, similar enough to a photo."""
    values = np.random.RandomState(0).standard_normal((3, 9, 13))
    smooth = torch.nn.functional.interpolate(torch.from_numpy(values)[None], size=IMAGE, mode="bilinear")[0]
    return (smooth * 50 + 120).clamp(0, 255).round().to(torch.uint8)


def stand_in() -> None:
    """Replacement for mmcv's compiled operators; only suppression is needed."""

    class NotCompiled(types.ModuleType):
        nms = staticmethod(lambda boxes, scores, iou_threshold, offset=0: nms(boxes, scores, iou_threshold))

        def __getattr__(self, name: str) -> object:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError(f"mmcv's {name} is not compiled"))

    sys.modules["mmcv._ext"] = NotCompiled("mmcv._ext")


def build(name: str) -> tuple[object, str]:
    """mmdetection's detector with the weights of ``weights_of``, and the text of its configuration."""
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    config = Config.fromfile(os.path.join(os.path.dirname(mmdet.__file__), ".mim", "configs", CONFIGS[name]))
    config.model.backbone.init_cfg = None
    config.model.neck.out_channels = CHANNELS
    config.model.bbox_head.update(num_classes=NUM_CLASSES, in_channels=CHANNELS, feat_channels=CHANNELS)
    model = MODELS.build(config.model).eval()
    constants = ("num_batches_tracked", "project")
    weights = {
        key: value if key.endswith(constants) else weights_of(key, tuple(value.shape))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    return model, config.pretty_text


def random_maps(head: object, seed: int) -> list[list[Tensor]]:
    """Random head outputs for two images: a list of levels for each output, before FCOS's exponential."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(-(-IMAGE[0] // stride), -(-IMAGE[1] // stride)) for stride in (8, 16, 32, 64, 128)]
    anchors = 9 if type(head).__name__ == "RetinaHead" else 1
    numbers = 68 if type(head).__name__ == "GFLHead" else 4
    outputs = [(anchors * NUM_CLASSES, -2.0, 1.5), (anchors * numbers, 0.0, 3.0 if numbers > 4 else 0.5)]
    if type(head).__name__ == "FCOSHead":
        outputs[1] = (4, 1.0 if head.norm_on_bbox else 2.5, 0.5)
    if hasattr(head, "loss_centerness"):
        outputs.append((1, 0.0, 1.0))
    return [
        [
            (torch.randn(2, channels, *shape, generator=generator) * spread + centre).half().float().requires_grad_()
            for shape in shapes
        ]
        for channels, centre, spread in outputs
    ]


def record(name: str) -> None:
    """Write one fixture."""
    from mmengine.structures import InstanceData

    model, text = build(name)
    head = model.bbox_head
    maps = random_maps(head, seed=1)
    given = list(maps)
    if name == "fcos":
        given[1] = [level.exp() for level in maps[1]]
    elif name == "fcos_center":
        given[1] = [level.clamp(min=0) for level in maps[1]]
    metas = [{"img_shape": IMAGE, "pad_shape": IMAGE, "ori_shape": IMAGE, "scale_factor": (1.0, 1.0)}] * 2
    truth = [InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels)) for boxes, labels in TRUTH]
    terms = head.loss_by_feat(*given, truth, metas)
    terms = {key: sum(value) if isinstance(value, list) else value for key, value in terms.items()}
    out: dict[str, Tensor] = {f"loss.{key}": value.detach().reshape(1) for key, value in terms.items()}
    sum(terms.values()).backward()
    for output, levels in enumerate(maps):
        for index, level in enumerate(levels):
            out[f"map.{output}.{index}"] = level.detach().half()
            out[f"grad.{output}.{index}"] = level.grad if level.grad is not None else torch.zeros_like(level)
    with torch.no_grad():
        if name == "fcos_center":  # pixels at prediction
            given[1] = [level * stride for level, stride in zip(given[1], head.strides, strict=True)]
        found = head.predict_by_feat(*given, batch_img_metas=metas, rescale=False)
        for index, detections in enumerate(found):
            out |= {f"found.{index}.{key}": detections[key] for key in ("bboxes", "scores", "labels")}
        whole = model.data_preprocessor({"inputs": [image().flip(0)], "data_samples": None})["inputs"]
        outputs = head(model.extract_feat(whole))
        for detections in head.predict_by_feat(*outputs, batch_img_metas=metas[:1], rescale=False):
            out |= {f"whole.{key}": detections[key] for key in ("bboxes", "scores", "labels")}
        out["whole.class_logits"] = torch.cat([level.flatten() for level in outputs[0]])
    out |= {f"shape.{key}": torch.tensor(value.shape) for key, value in model.state_dict().items()}
    FIXTURES.mkdir(parents=True, exist_ok=True)
    file = FIXTURES / f"{name}.safetensors"
    save_file({key: value.detach().contiguous() for key, value in out.items()}, file, {"config": text})
    print(name, {k: float(v) for k, v in out.items() if k.startswith("loss.")}, file.stat().st_size)
    print(
        {k: len(v) for k, v in out.items() if k.endswith("scores")},
        out["whole.scores"][:3],
        out["whole.class_logits"].std(),
    )


if __name__ == "__main__":
    stand_in()
    for name in CONFIGS:
        record(name)
