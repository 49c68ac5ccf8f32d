"""One small valid file of every kind that a command reads, for the fuzzer to damage."""

import json
import pickle
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
for folder in ("data", "report", "runtime", "study"):
    sys.path.append(str(TESTS / folder))

from colours import BOXES, CARD, colour_model  # noqa: E402
from hostile_labels import write_layouts  # noqa: E402
from lines import line  # noqa: E402
from run_folder import drawn_truth, jittered, write_run  # noqa: E402
from study_folder import write_study  # noqa: E402

from focaldet.engine.config import TrainConfig  # noqa: E402
from focaldet.engine.spec import ModelSpec, save_model  # noqa: E402
from focaldet.files import write_json  # noqa: E402
from focaldet.runtime.card import KEY  # noqa: E402
from focaldet.runtime.video import write_video  # noqa: E402
from focaldet.study.folder import common_settings  # noqa: E402

__all__ = ["BOXES", "CARD", "PHOTOS", "checkpoint", "colour_model", "make_samples", "strange_checkpoints"]

CLASSES = ("cat", "dog")
PHOTOS = ("photo.jpg", "photo.png", "photo.gif", "photo.tif", "photo.webp", "photo.bmp", "photo.ppm", "grey.png")

MMDET_CONFIG = """norm = dict(mean=[1.5, 2.5, 3.5], std=[1, 1, 1], to_rgb=False)
model = dict(
    type='GFL',
    backbone=dict(type='ResNet', depth=18, style='pytorch'),
    neck=dict(type='FPN', start_level=1, num_outs=5, add_extra_convs='on_output'),
    bbox_head=dict(type='GFLHead', num_classes=2, anchor_generator=dict(type='AnchorGenerator', octave_base_scale=8,
                   scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32, 64, 128])))
test_cfg = dict(nms_pre=500, score_thr=0.1, nms=dict(type='nms', iou_threshold=0.45), max_per_img=50)
test_pipeline = [dict(type='Resize', scale=(667, 400)), dict(type='Normalize', **norm),
                 dict(type='Pad', size_divisor=32)]
"""


def make_samples(folder: Path) -> None:
    """Write all samples below a folder."""
    photos = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for name in PHOTOS:
        Image.fromarray(photos if name != "grey.png" else photos[..., 0].astype(np.uint16) * 256).save(folder / name)
    Image.fromarray(photos).save(folder / "scans.jpg", progressive=True)
    Image.fromarray(photos).save(folder / "deflate.tif", compression="tiff_adobe_deflate")
    write_video(folder / "film.mp4", [(Image.fromarray(photos), Fraction(25))] * 6)
    (folder / "model.onnx").write_bytes(colour_model({KEY: CARD.to_json()}))
    cats = replace(CARD, class_names=(*CLASSES, "cow"))
    (folder / "cats.onnx").write_bytes(colour_model({KEY: cats.to_json()}))
    write_layouts(folder)
    truth = drawn_truth(folder / "measured", list(CLASSES))
    _write_run(folder / "run", truth)
    _write_study(folder / "study", truth, folder / "coco")
    (folder / "names.txt").write_text("cat\ndog\n")
    (folder / "mmdet.py").write_text(MMDET_CONFIG)
    torch.save(checkpoint(), folder / "mmdet.pth")
    torch.save(torchvision_checkpoint(), folder / "torchvision.pth")
    torch.save(checkpoint(), folder / "old.pth", _use_new_zipfile_serialization=False)


def _write_run(run: Path, truth: dict[str, Any]) -> None:
    write_run(run, truth, jittered(truth, 0))
    spec = ModelSpec("gfl", CLASSES, "mobilenetv3_small_050", size=64, channels=16, head_depth=1)
    torch.manual_seed(0)
    save_model(run, spec, spec.build()[0])
    config = TrainConfig(data="nowhere", backbone=spec.backbone, size=64, channels=16, head_depth=1)
    (run / "config.yaml").write_text(config.to_yaml())
    write_json(run / "splits.json", {"train": ["a.jpg"], "val": ["b.jpg"], "test": ["c.jpg"]})


def _write_study(study: Path, truth: dict[str, Any], data: Path) -> None:
    write_study(study, truth, seeds=(0, 1), rungs=["atss", "gfl"], num_photos=2)
    header = json.loads((study / "study.json").read_text())
    write_json(study / "study.json", header | {"settings": common_settings({"data": str(data), "epochs": 1})})
    lines = [line(rung, seed, 0.5) for rung in ("atss", "gfl") for seed in (0, 1)]
    (study / "study.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def checkpoint() -> dict[str, Any]:
    """Names of a GFL of mmdetection on a ResNet-18, tensors of hardly any size."""
    weights = {f"backbone.layer{stage}.{block}.conv1.weight": 1 for stage in (1, 2, 3, 4) for block in (0, 1)}
    weights |= {"backbone.conv1.weight": 3, "neck.lateral_convs.0.conv.weight": 16}
    weights |= {"bbox_head.gfl_cls.weight": 2, "bbox_head.gfl_reg.weight": 68, "bbox_head.cls_convs.0.gn.weight": 1}
    state = {name: torch.zeros(rows, 3, 1, 1) for name, rows in weights.items()}
    return {"meta": {"CLASSES": list(CLASSES), "cfg": MMDET_CONFIG}, "state_dict": state}


def torchvision_checkpoint() -> dict[str, Any]:
    """Names of a RetinaNet of torchvision, with tiny tensors."""
    weights = {f"backbone.body.layer{stage}.{block}.conv1.weight": 1 for stage, count in enumerate((3, 4, 6, 3), 1)
               for block in range(count)}  # fmt: skip
    weights |= {"backbone.body.layer1.0.conv3.weight": 1, "backbone.fpn.extra_blocks.p6.weight": 16}
    weights |= {"head.classification_head.cls_logits.weight": 27, "backbone.body.conv1.weight": 3}
    state = {name: torch.zeros(rows, 3, 1, 1) for name, rows in weights.items()}
    state |= {"head.classification_head.cls_logits.bias": torch.zeros(27)}
    return state | {f"backbone.body.bn1.{part}": torch.ones(3) for part in ("weight", "running_var")}


def strange_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints with tensors that are not plain weights, one per file."""
    zeros = torch.zeros(2, 3)
    strange: dict[str, Any] = {
        "scalar": torch.tensor(1.0),
        "sparse": zeros.to_sparse(),
        "csr": zeros.to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(zeros, 0.1, 0, torch.qint8),
        "meta": torch.zeros(2, 3, device="meta"),
        "complex": zeros.to(torch.complex64),
        "bool": zeros.bool(),
        "huge": torch.zeros(1).expand(10**6, 10**6),
        "nan": zeros / 0,
        "empty": torch.zeros(0),
        "float8": zeros.to(torch.float8_e4m3fn),
        "bfloat16": zeros.bfloat16(),
        "int4": zeros.to(torch.int64),
        "parameter": torch.nn.Parameter(zeros),
        "list": [1, 2],
        "nothing": None,
        "text": "\ud800\n\x1b[31m",
        "nested": {"a": {"b": zeros}},
        "many_axes": torch.zeros([1] * 60),
    }
    files = []
    for name, value in strange.items():
        for key in ("bbox_head.gfl_cls.weight", "backbone.conv1.weight", "neck.lateral_convs.0.conv.weight", "other"):
            state = checkpoint()
            state["state_dict"][key] = value
            files.append(folder / f"{name}-{key}.pth")
            torch.save(state, files[-1])
        for key in torchvision_checkpoint():
            if "layer" not in key:
                files.append(folder / f"{name}-{key}.pth")
                torch.save(torchvision_checkpoint() | {key: value}, files[-1])
    contents: dict[str, Any] = {
        "a_list": [zeros],
        "a_tensor": zeros,
        "numbers_as_names": {1: zeros, (2, 3): zeros},
        "nothing_in_it": {"state_dict": {}},
        "deep": {"state_dict": _deep(150)},
        "meta_of_another_kind": checkpoint() | {"meta": {"cfg": 3, "CLASSES": {"a": 1}, "dataset_meta": "x"}},
        "config_of_another_kind": checkpoint() | {"meta": {"cfg": "model = 3"}},
        "code": {"state_dict": {"a": _Runs()}},
    }
    for name, value in contents.items():
        files.append(folder / f"{name}.pth")
        files[-1].write_bytes(pickle.dumps(value)) if name == "code" else torch.save(value, files[-1])
    return files


def _deep(levels: int) -> Any:
    value: Any = torch.zeros(1)
    for _ in range(levels):
        value = {"a": value}
    return value


class _Runs:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit(99)",))
