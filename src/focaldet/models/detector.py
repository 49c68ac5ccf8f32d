"""The network of a dense detector: images in, raw maps of the head out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from focaldet.checks import check_range
from focaldet.models.backbone import Backbone
from focaldet.models.caffe_resnet import stride_first_convolutions
from focaldet.models.fast_layers import with_fast_layers
from focaldet.models.fpn import STRIDES, Levels, PyramidNeck
from focaldet.models.head import DenseHead
from focaldet.structures import HeadOutputs


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Architecture options other than sizes. Networks trained here use the defaults.

    Args:
        levels: levels of the pyramid; ``"p2-p6"`` starts at stride 4, for objects of a few pixels.
        bottleneck_stride: which convolution of a ResNet bottleneck has the stride; ``"1x1"`` for weights from Caffe.
        p6_from, relu_before_p7: see ``PyramidNeck``.
        tower_norm, tower_bias, quality_on: see ``DenseHead``.
        pad_to: pad the normalised image with zeros, at the bottom and right, to a multiple of this many pixels.
    """

    levels: Levels = "p3-p7"
    bottleneck_stride: Literal["3x3", "1x1"] = "3x3"
    p6_from: Literal["p5", "c5"] = "p5"
    relu_before_p7: bool = True
    tower_norm: Literal["group", "none"] = "group"
    tower_bias: bool = False
    quality_on: Literal["box", "class"] = "box"
    pad_to: int = 1

    def __post_init__(self) -> None:
        check_range("pad_to", self.pad_to, 1, 2**10)


class DenseDetector(nn.Module):
    """Backbone, pyramid and head, including the image normalisation that the backbone expects.

    Args:
        backbone: provides C3, C4 and C5, and also C2 for a pyramid that starts at P2.
        num_classes: C.
        num_box_channels, num_anchors, quality_branch: see ``DenseHead``.
        channels: number of channels in the pyramid and the towers.
        head_depth: number of convolutions in each tower.
        prior_prob: see ``DenseHead``.
        variant: options in which published networks differ.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        num_box_channels: int,
        *,
        num_anchors: int = 1,
        quality_branch: Literal["none", "centerness", "distribution"] = "none",
        channels: int = 256,
        head_depth: int = 4,
        prior_prob: float = 0.01,
        variant: Variant = Variant(),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        if variant.bottleneck_stride == "1x1":
            stride_first_convolutions(backbone)
        self.neck = PyramidNeck(
            backbone.channels, channels, p6_from=variant.p6_from, relu_before_p7=variant.relu_before_p7
        )
        self.head = DenseHead(
            channels,
            num_classes,
            num_box_channels,
            num_anchors=num_anchors,
            num_levels=len(STRIDES[variant.levels]),
            depth=head_depth,
            prior_prob=prior_prob,
            quality_branch=quality_branch,
            quality_on=variant.quality_on,
            tower_norm=variant.tower_norm,
            tower_bias=variant.tower_bias,
        )
        with_fast_layers(self)
        self.pad_to = variant.pad_to
        self.num_classes = num_classes
        self.strides = STRIDES[variant.levels]
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> HeadOutputs:
        """RGB images ``(B, 3, H, W)`` of any size, uint8 or float in [0, 255], to raw maps."""
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        if self.pad_to > 1:
            # Pad by a constant, then crop: onnxruntime does not pass a network with computed padding to OpenVINO.
            height, width = ((side + self.pad_to - 1) // self.pad_to * self.pad_to for side in images.shape[2:])
            normalised = pad(normalised, (0, self.pad_to - 1, 0, self.pad_to - 1))[:, :, :height, :width]
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        outputs: HeadOutputs = self.head(self.neck(self.backbone(normalised)))
        return outputs


def map_shapes(height: int, width: int, strides: tuple[int, ...], pad_to: int = 1) -> tuple[tuple[int, int], ...]:
    """(height, width) of each level's map of an image, for a backbone that rounds up when it halves a map.

    Most do. Those that cut an image into patches round down.

    >>> map_shapes(250, 320, (8, 16, 32)), map_shapes(250, 320, (8, 16, 32), pad_to=32)
    (((32, 40), (16, 20), (8, 10)), ((32, 40), (16, 20), (8, 10)))
    """
    height, width = (-(-side // pad_to) * pad_to for side in (height, width))
    return tuple((-(-height // stride), -(-width // stride)) for stride in strides)
