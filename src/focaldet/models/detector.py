"""A dense detector as a network: images in, the head's raw maps out."""

from typing import Literal

import torch
from torch import Tensor, nn

from focaldet.models.backbone import Backbone
from focaldet.models.fpn import STRIDES, PyramidNeck
from focaldet.models.head import DenseHead
from focaldet.structures import HeadOutputs


class DenseDetector(nn.Module):
    """Backbone, pyramid and head, with the image normalisation that the backbone expects.

    Args:
        backbone: gives C3, C4, C5.
        num_classes: C.
        box_outputs, anchors, quality: what the method asks of the head, see ``DenseHead``.
        channels: width of the pyramid and of the towers.
        head_depth: convolutions of each tower.
        prior_prob: see ``DenseHead``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        box_outputs: int,
        *,
        anchors: int = 1,
        quality: Literal["none", "centerness", "distribution"] = "none",
        channels: int = 256,
        head_depth: int = 4,
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = PyramidNeck(backbone.channels, channels)
        self.head = DenseHead(
            channels,
            num_classes,
            box_outputs,
            anchors=anchors,
            num_levels=len(STRIDES),
            depth=head_depth,
            prior_prob=prior_prob,
            quality=quality,
        )
        self.num_classes = num_classes
        self.strides = STRIDES
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> HeadOutputs:
        """Images ``(B, 3, H, W)``, uint8 or float in [0, 255], RGB; any height and width."""
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        outputs: HeadOutputs = self.head(self.neck(self.backbone(normalised)))
        return outputs
