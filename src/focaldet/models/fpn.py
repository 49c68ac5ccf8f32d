"""The feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144), with the two coarse levels of RetinaNet."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

STRIDES = (8, 16, 32, 64, 128)
"""Of P3 .. P7, in pixels."""


class PyramidNeck(nn.Module):
    """C3, C4, C5 to P3 .. P7, all of ``channels`` channels.

    P6 and P7 are strided convolutions on P5, as in FCOS, ATSS and GFL (RetinaNet's own are on C5).
    """

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks=LastLevelP6P7(channels, channels))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Feature maps in, pyramid out."""
        return list(self.fpn(OrderedDict(zip("345", features, strict=True))).values())
