"""The feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144) with the coarse levels of RetinaNet."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

Levels = Literal["p3-p7", "p2-p6"]

STRIDES: dict[Levels, tuple[int, ...]] = {"p3-p7": (8, 16, 32, 64, 128), "p2-p6": (4, 8, 16, 32, 64)}
"""Name of a pyramid -> strides of its five levels, in pixels."""


def backbone_strides(levels: Levels) -> tuple[int, ...]:
    """Strides of the backbone maps that the pyramid is built from. No backbone goes beyond 32.

    >>> backbone_strides("p2-p6")
    (4, 8, 16, 32)
    """
    return tuple(stride for stride in STRIDES[levels] if stride <= 32)


class CoarseLevels(LastLevelP6P7):  # type: ignore[misc]
    """P6 and optionally P7, by strided convolutions.

    Args:
        in_channels, channels: number of channels of the map that P6 is computed from, and of the pyramid.
        has_p7: whether there is a P7; otherwise P6 is the last level.
        from_p5: compute P6 from P5, otherwise from C5.
        relu_before_p7: apply a ReLU to P6 before computing P7.
    """

    def __init__(self, in_channels: int, channels: int, *, has_p7: bool, from_p5: bool, relu_before_p7: bool) -> None:
        super().__init__(in_channels, channels)
        if not has_p7:
            del self.p7
        self.has_p7 = has_p7
        self.from_p5 = from_p5
        self.relu_before_p7 = relu_before_p7

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append the coarse levels to the maps of the pyramid."""
        p6 = _halved(self.p6, p[-1] if self.from_p5 else c[-1])
        if not self.has_p7:
            return [*p, p6], [*names, "p6"]
        p7 = _halved(self.p7, relu(p6) if self.relu_before_p7 else p6)
        return [*p, p6, p7], [*names, "p6", "p7"]


def _halved(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply a strided convolution to a map ``(B, C, h, w)``.

    In bfloat16, oneDNN leaves the gradient of the weight unset if a map is one column wide (torch 2.14). The workaround
    is a second column of zeros, which equals the padding beyond the border and changes nothing else.
    """
    if torch.is_autocast_enabled(x.device.type) and x.shape[-1] == 1:
        x = pad(x, (0, 1))
    halved: Tensor = convolution(x)
    return halved


class PyramidNeck(nn.Module):
    """Build P3 .. P7 from C3 .. C5, or P2 .. P6 from C2 .. C5.

    Args:
        in_channels: number of channels of the three or four backbone maps.
        channels: number of channels of every map of the pyramid.
        p6_from: source of P6: P5 as in FCOS, ATSS and GFL, or C5 as in the RetinaNet paper.
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
            channels if from_p5 else in_channels[-1],
            channels,
            has_p7=len(in_channels) == 3,
            from_p5=from_p5,
            relu_before_p7=relu_before_p7,
        )
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks=coarse)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Backbone maps, finest first, to the maps of the pyramid."""
        return list(self.fpn(OrderedDict(zip("2345"[-len(features) :], features, strict=True))).values())
