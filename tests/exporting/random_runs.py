"""Detectors with random weights that detect something: comparing an export with its run needs no training."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from focaldet.cli import main
from focaldet.engine.detector import Detector
from focaldet.engine.spec import ModelSpec, save_model
from focaldet.models.detector import Variant
from focaldet.models.postprocess import PostProcessConfig
from focaldet.photos.resize import Resize

CELLS = ("Platelets", "RBC", "WBC")
"""Classes of the blood cell photos."""

TORCHVISION = {
    "network": Variant(pad_to=32, p6_from="c5", tower_norm="none", tower_bias=True),
    "resize": Resize(short_side=70, resampling="torchvision"),
    "postprocess": PostProcessConfig(nms_iou=0.5, max_detections=30, keep_empty=True, offset=0.0, steps="fitted"),
}
"""Properties of torchvision's RetinaNet, see ``focaldet.importing``."""

TORCHVISION_FCOS = TORCHVISION | {"network": Variant(pad_to=32, tower_bias=True)}
"""Properties of torchvision's FCOS."""

MMDETECTION = {
    "network": Variant(pad_to=32, relu_before_p7=False),
    "resize": Resize(short_side=70, resampling="opencv"),
    "postprocess": PostProcessConfig(nms_iou=0.6, max_detections=30, offset=0.0, shift_px=3.5, last_pixel=True),
    "method_options": {"score": "product", "threshold_on": "class"},
}
"""Properties of mmdetection's ATSS, and of the GFL authors' code."""


def random_detector(method: str, *, backbone: str = "test_resnet", channels: int = 16, depth: int = 1, **options):
    """A detector of 100 px and three classes, whose scores are from 0 to 1 and whose boxes are some strides large."""
    torch.manual_seed(0)
    fields = {"class_names": ("a", "b", "c"), "size": 100} | options
    spec = ModelSpec(method=method, backbone=backbone, channels=channels, head_depth=depth, **fields)
    net, how = spec.build(prior_prob=0.05)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.8, 1.2)
        for layer in (net.head.class_logits, net.head.box_outputs, net.head.centerness):
            if layer is not None:
                layer.weight.normal_(0, 0.15)
    return Detector(spec, net, how)


def random_run(folder: Path, method: str, **options) -> Path:
    """Such a detector as a run folder."""
    detector = random_detector(method, **options)
    save_model(folder, detector.spec, detector.net)
    return folder


@dataclass(frozen=True)
class Exported:
    """The result of ``focaldet export`` for a run.

    Args:
        run: its folder.
        file: the file.
        said: the printed lines.
    """

    run: Path
    file: Path
    said: str

    @property
    def boxes(self) -> int:
        """Number of boxes compared with the run, as printed."""
        return int(self._comparison.split()[4])

    @property
    def difference_px(self) -> float:
        """Largest difference from a box of the run, as printed."""
        return float(self._comparison.split("within ")[1].split(" px")[0])

    @property
    def _comparison(self) -> str:
        (line,) = (line for line in self.said.splitlines() if line.startswith("compared with the run: "))
        return line


def exported(run: Path, *options: str, file: Path | None = None) -> Exported:
    """Run the command; the file is next to the run unless another place is given."""
    file = file or run.with_suffix(".onnx")
    with redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(run), "--out", str(file), *options]) == 0
    return Exported(run, file, said.getvalue())
