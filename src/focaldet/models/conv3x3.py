"""The 3 x 3 convolution of stride 1, which dominates the cost of a dense detector."""

from typing import Self

import torch
from torch import Tensor, nn

from focaldet.kernels.convolution import conv3x3, num_tiles
from focaldet.kernels.layers import applies

MIN_CHANNELS = 32
"""Lowest number of input and output channels: with fewer, the transforms cost more than the saved multiplications."""
MIN_TILES = 24
"""Lowest number of tiles in all maps together: with fewer, transforming the weights costs more than is saved."""


class Conv3x3(nn.Conv2d):
    """``nn.Conv2d`` with kernel 3, stride 1 and padding 1, for one map or for all levels of a pyramid at once.

    Where Winograd's algorithm is faster (float32 on the CPU), it is used; it needs a quarter of the multiplications
    (``kernels.convolution``). Traced and exported models keep an ordinary convolution.

    Args:
        in_channels, out_channels, bias: see ``nn.Conv2d``.

    >>> conv = Conv3x3(32, 32)
    >>> maps = [torch.randn(1, 32, 16, 20), torch.randn(1, 32, 8, 10)]
    >>> expected = [nn.functional.conv2d(x, conv.weight, conv.bias, padding=1) for x in maps]
    >>> all(torch.allclose(x, y, atol=1e-5) for x, y in zip(conv.of_levels(maps), expected))
    True
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    @classmethod
    def like(cls, conv: nn.Conv2d) -> Self:
        """The same convolution, with the same parameters.

        Args:
            conv: see ``is_conv3x3``.
        """
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
            own = cls(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
        own.weight, own.bias = conv.weight, conv.bias
        return own

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return self.of_levels([x])[0]

    def of_levels(self, maps: list[Tensor]) -> list[Tensor]:
        """Apply to each map ``(B, in_channels, H, W)`` of a pyramid."""
        if self._pays(maps):
            return conv3x3(maps, self.weight, self.bias)
        return [super(Conv3x3, self).forward(x) for x in maps]

    def _pays(self, maps: list[Tensor]) -> bool:
        return (
            all(x.dtype == torch.float32 for x in (self.weight, *maps))
            and min(self.in_channels, self.out_channels) >= MIN_CHANNELS
            and not torch.is_autocast_enabled("cpu")
            and applies(maps, self.weight, self.bias)
            and sum(num_tiles(x.shape[0], *x.shape[2:]) for x in maps) >= MIN_TILES
        )


def is_conv3x3(conv: nn.Conv2d) -> bool:
    """Whether a convolution has kernel 3, stride 1 and padding 1, and nothing else."""
    facts = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return facts == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
