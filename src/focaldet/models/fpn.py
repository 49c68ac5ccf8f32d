"""The feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144), with the two coarse levels of RetinaNet."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

Levels = Literal["p3-p7", "p2-p6"]

STRIDES: dict[Levels, tuple[int, ...]] = {"p3-p7": (8, 16, 32, 64, 128), "p2-p6": (4, 8, 16, 32, 64)}
"""Of the five levels, in pixels."""


def backbone_strides(levels: Levels) -> tuple[int, ...]:
    """Of the feature maps that the pyramid is made of; no backbone goes beyond 32.

    >>> backbone_strides("p2-p6")
    (4, 8, 16, 32)
    """
    return tuple(stride for stride in STRIDES[levels] if stride <= 32)


class CoarseLevels(LastLevelP6P7):  # type: ignore[misc]
    """P6, and P7 when there is one, by strided convolutions.

    Args:
        in_channels, channels: of the map that P6 is made of, and of the pyramid.
        has_p7: else P6 is the last.
        from_p5: P6 is made of P5, else of C5.
        relu_before_p7: P7 is made of the positive part of P6.
    """

    def __init__(self, in_channels: int, channels: int, *, has_p7: bool, from_p5: bool, relu_before_p7: bool) -> None:
        super().__init__(in_channels, channels)
        if not has_p7:
            del self.p7
        self.has_p7 = has_p7
        self.from_p5 = from_p5
        self.relu_before_p7 = relu_before_p7

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Adds them to the maps of the pyramid."""
        p6 = _halved(self.p6, p[-1] if self.from_p5 else c[-1])
        if not self.has_p7:
            return [*p, p6], [*names, "p6"]
        p7 = _halved(self.p7, relu(p6) if self.relu_before_p7 else p6)
        return [*p, p6, p7], [*names, "p6", "p7"]


def _halved(convolution: nn.Module, x: Tensor) -> Tensor:
    """A strided convolution of a map ``(B, C, h, w)``.

    oneDNN leaves the weight's gradient unset, in bfloat16, where a map is one column wide (torch 2.14). A second column
    of zeros, which is what the convolution sees beyond the border, changes nothing else.
    """
    if torch.is_autocast_enabled(x.device.type) and x.shape[-1] == 1:
        x = pad(x, (0, 1))
    halved: Tensor = convolution(x)
    return halved


class PyramidNeck(nn.Module):
    """C3, C4, C5 to P3 .. P7, or C2 .. C5 to P2 .. P6, all of ``channels`` channels.

    Args:
        in_channels: of the backbone's three or four maps.
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
            channels if from_p5 else in_channels[-1],
            channels,
            has_p7=len(in_channels) == 3,
            from_p5=from_p5,
            relu_before_p7=relu_before_p7,
        )
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks=coarse)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Feature maps in, pyramid out."""
        return list(self.fpn(OrderedDict(zip("2345"[-len(features) :], features, strict=True))).values())
