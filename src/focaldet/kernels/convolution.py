"""3 x 3 convolutions of float32 maps on the CPU, by Winograd's minimal filtering F(4 x 4, 3 x 3).

Cook and Toom's polynomial products, Winograd's minimum, Lavin & Gray's tiles (arXiv 1509.09308): a tile of 4 x 4 pixels
takes 36 multiplications instead of 144, all of them in products of large matrices. The transforms between maps and
tiles are C++ (csrc/winograd.cpp); torch.bmm computes the products. All maps of a list share them, so that a small map
costs little more than its share of the pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from focaldet.kernels.layers import backward_by_torch, channels_last
from focaldet.kernels.ops import LIBRARY, is_plain

for _name in ("pixels_to_tiles", "gradient_to_tiles"):
    LIBRARY.define(f"{_name}(Tensor map, Tensor(a!) tiles, int first, int count, int at) -> ()")
LIBRARY.define("largest(Tensor x) -> float")
LIBRARY.define("tiles_to_pixels(Tensor tiles, Tensor? bias, Tensor(a!) map, int first, int count, int at) -> ()")
_ops: Any = torch.ops.focaldet

TILES = 128
"""Number of tiles processed at a time: enough rows for fast products, in little memory (10 MB at 256 channels)."""

_A, _B = 0.5**0.5, 2.0**0.5
_ROWS = [
    [1, 0, 0],
    [-2 / 3, -2 / 3 * _A, -1 / 3],
    [-2 / 3, 2 / 3 * _A, -1 / 3],
    [1 / 6, _B / 6, 1 / 3],
    [1 / 6, -_B / 6, 1 / 3],
    [0, 0, 1],
]
_WEIGHTS = torch.kron(torch.tensor(_ROWS, dtype=torch.float64), torch.tensor(_ROWS, dtype=torch.float64)).float()
"""``(36, 9)`` matrix that turns the weights of a kernel into its factors."""


LIMIT = 2.0**16
"""``conv2d`` handles larger numbers, infinities and NaN: there, they affect only their neighbours. In tiles, the
rounding error of a large number spoils its whole tile. Below the limit no sum of products overflows."""


def conv3x3(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """``conv2d(x, weight, bias, padding=1)`` of every map ``(B, C, H, W)``.

    A map that contains a number beyond `LIMIT`, an infinity or NaN goes to ``conv2d``. If the weight contains one, all
    maps do.

    Args:
        maps: float32 on the CPU, any batch and size; in channels-last order nothing is copied.
        weight: ``(O, C, 3, 3)``.
        bias: ``(O,)``.
    """
    fit = [_is_small(x) for x in maps] if _is_small(weight) else [False] * len(maps)
    tiled = iter(_Conv3x3.apply(weight, bias, *(x for x, by_tiles in zip(maps, fit, strict=True) if by_tiles)))
    return [
        next(tiled) if by_tiles else conv2d(x, weight, bias, padding=1) for x, by_tiles in zip(maps, fit, strict=True)
    ]


def _is_small(x: Tensor) -> bool:
    """Whether all numbers are finite and within `LIMIT`."""
    dense = x if x.is_contiguous() else channels_last(x)
    small: bool = _ops.largest(dense) <= LIMIT
    return small


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weight, bias, *maps)
        return tuple(_convolve([channels_last(x) for x in maps], _factors(weight.transpose(0, 1)), bias))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, *maps = ctx.saved_tensors
        # Grad is enabled only if a second derivative is needed.
        if torch.is_grad_enabled() or not all(is_plain(grad) and _is_small(grad) for grad in grads):

            def convolve() -> list[Tensor]:
                return [conv2d(x, weight, bias, padding=1) for x in maps]

            return backward_by_torch(convolve, ctx.saved_tensors, ctx.needs_input_grad, grads)
        inputs, outputs = [channels_last(x) for x in maps], [channels_last(grad) for grad in grads]
        grad_maps: list[Tensor | None] = [None] * len(inputs)
        grad_weight = grad_bias = None
        if any(ctx.needs_input_grad[2:]):
            grad_maps = list(_convolve(outputs, _factors(weight.flip(2, 3)), None))
        if ctx.needs_input_grad[0]:
            grad_weight = _weight_gradient(inputs, outputs)
        if ctx.needs_input_grad[1]:
            grad_bias = torch.stack([output.sum(dim=(0, 1, 2)) for output in outputs]).sum(dim=0)
        return grad_weight, grad_bias, *grad_maps


def _factors(weight: Tensor) -> Tensor:
    """``(A, B, 3, 3)`` to ``(36, A, B)``."""
    return (_WEIGHTS @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, *weight.shape[:2])


def _convolve(inputs: list[Tensor], factors: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Maps ``(B, O, H, W)`` in channels-last order, computed with factors ``(36, C, O)``."""
    outputs = []
    for x in inputs:
        batch, height, width, _ = x.shape
        outputs.append(torch.empty(batch, factors.shape[2], height, width, memory_format=torch.channels_last))
    for pieces, count in _pieces(inputs):
        products = torch.bmm(_read(_ops.pixels_to_tiles, inputs, pieces, count), factors)
        for level, first, piece, at in pieces:
            _ops.tiles_to_pixels(products, bias, outputs[level].permute(0, 2, 3, 1), first, piece, at)
    return outputs


def _weight_gradient(inputs: list[Tensor], outputs: list[Tensor]) -> Tensor:
    """``(O, C, 3, 3)``."""
    out, channels = outputs[0].shape[3], inputs[0].shape[3]
    grad = inputs[0].new_zeros(36, out, channels)
    for pieces, count in _pieces(inputs):
        tiles = _read(_ops.pixels_to_tiles, inputs, pieces, count)
        grad.baddbmm_(_read(_ops.gradient_to_tiles, outputs, pieces, count).transpose(1, 2), tiles)
    return (_WEIGHTS.T @ grad.view(36, -1)).view(3, 3, out, channels).permute(2, 3, 0, 1)


Piece = tuple[int, int, int, int]
"""Index of the map, its first tile, the number of tiles, and their slice of the batch of tiles."""


def _read(transform: Any, maps: list[Tensor], pieces: list[Piece], count: int) -> Tensor:
    tiles = maps[0].new_empty(36, count, maps[0].shape[3])
    for level, first, piece, at in pieces:
        transform(maps[level], tiles, first, piece, at)
    return tiles


def _pieces(maps: list[Tensor]) -> Iterator[tuple[list[Piece], int]]:
    """All tiles of all maps, ``TILES`` at a time."""
    pieces: list[Piece] = []
    filled = 0
    for level, x in enumerate(maps):
        first, total = 0, num_tiles(x.shape[0], *x.shape[1:3])
        while first < total:
            piece = min(total - first, TILES - filled)
            pieces.append((level, first, piece, filled))
            first, filled = first + piece, filled + piece
            if filled == TILES:
                yield pieces, filled
                pieces, filled = [], 0
    if filled:
        yield pieces, filled


def num_tiles(images: int, height: int, width: int) -> int:
    """Number of tiles in a batch of maps.

    >>> num_tiles(2, 5, 4)
    4
    """
    return images * -(-height // 4) * -(-width // 4)
