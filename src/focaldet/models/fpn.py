"""The feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144), with the two coarse levels of RetinaNet."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

STRIDES = (8, 16, 32, 64, 128)
"""Of P3 .. P7, in pixels."""


class CoarseLevels(LastLevelP6P7):  # type: ignore[misc]
    """P6 and P7 by strided convolutions.

    Args:
        in_channels, channels: of the map that P6 is made of, and of the pyramid.
        from_p5: P6 is made of P5, else of C5.
        relu_before_p7: P7 is made of the positive part of P6.
    """

    def __init__(self, in_channels: int, channels: int, *, from_p5: bool, relu_before_p7: bool) -> None:
        super().__init__(in_channels, channels)
        self.from_p5 = from_p5
        self.relu_before_p7 = relu_before_p7

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Adds P6 and P7 to the maps of the pyramid."""
        p6 = self.p6(p[-1] if self.from_p5 else c[-1])
        p7 = self.p7(relu(p6) if self.relu_before_p7 else p6)
        return [*p, p6, p7], [*names, "p6", "p7"]


class PyramidNeck(nn.Module):
    """C3, C4, C5 to P3 .. P7, all of ``channels`` channels.

    Args:
        in_channels: of C3, C4, C5.
        channels: of every map of the pyramid.
        p6_from: the map that P6 is made of: P5 as in FCOS, ATSS and GFL, or C5 as in the paper of RetinaNet.
        relu_before_p7: see ``CoarseLevels``.
    """

    def __init__(
        self,
        in_channels: list[int],
        channels: int,
        *,
        p6_from: Literal["p5", "c5"] = "p5",
        relu_before_p7: bool = True,
    ) -> None:
        super().__init__()
        from_p5 = p6_from == "p5"
        coarse = CoarseLevels(
            channels if from_p5 else in_channels[-1], channels, from_p5=from_p5, relu_before_p7=relu_before_p7
        )
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks=coarse)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Feature maps in, pyramid out."""
        return list(self.fpn(OrderedDict(zip("345", features, strict=True))).values())
