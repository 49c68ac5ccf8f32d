# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton gives the arguments of its kernels their types when it compiles them.
"""Shared parts of the Triton kernels: several tensors per launch, sums in two steps, and the factor of backward."""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from focaldet.kernels.triton_math import factor_of

BLOCK = 1024


def odd(size: int) -> int:
    """``2 * size + 1``, always odd: Triton compiles a kernel again for a size of 1 and for multiples of 16."""
    return 2 * size + 1


@triton.jit
def part_of(block, tensors, others, sizes, PER_SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Locate a block when the blocks of several tensors are numbered consecutively.

    Args:
        tensors: tuple.
        others: tuple of the same length, or none.
        sizes: tuple of `odd` sizes.
        PER_SIZE: elements per unit of size.

    Returns:
        The addresses of the tensor and of its counterpart in ``others``, its size, the sum of the sizes before it, and
        the block within it.
    """
    place = tensors[0].to(tl.int64)
    other_place = place
    size, before, first_block = tl.cast(0, tl.int64), tl.cast(0, tl.int64), 0
    next_before, next_block = before, 0
    for i in tl.static_range(len(sizes)):
        reached = block >= next_block
        place = tl.where(reached, tensors[i].to(tl.int64), place)
        if others is not None:
            other_place = tl.where(reached, others[i].to(tl.int64), other_place)
        own = (sizes[i] >> 1).to(tl.int64)
        size = tl.where(reached, own, size)
        before = tl.where(reached, next_before, before)
        first_block = tl.where(reached, next_block, first_block)
        next_before += own
        next_block += tl.cdiv(own * PER_SIZE, BLOCK).to(tl.int32)
    return place, other_place, size, before, block - first_block


@triton.jit(do_not_specialize=["count"])
def sum_kernel(
    sums_ptr,  # (count,)
    normalizer_ptr,  # 0-d, or none
    loss_ptr,  # 0-d
    count: tl.int32,
    scale: tl.float32,
    BLOCK: tl.constexpr,
):
    """``scale / normalizer`` times the sum of all, in one program and a fixed order: two runs give the same bits."""
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        sums += tl.load(sums_ptr + start + lane, mask=start + lane < count, other=0.0)
    tl.store(loss_ptr, tl.sum(sums, axis=0).to(tl.float32) * factor_of(scale, normalizer_ptr))


def total(sums: Tensor, scale: float, normalizer: Tensor | None) -> Tensor:
    """``scale / normalizer`` times the sum of the results of a kernel's programs."""
    loss = sums.new_empty(())
    sum_kernel[(1,)](sums, normalizer, loss, sums.numel(), scale, BLOCK=BLOCK)
    return loss


@triton.jit
def multiply_kernel(
    tensors,  # tuple
    sizes,  # tuple of the `odd` numbers of elements
    factor_ptr,  # 0-d
    BLOCK: tl.constexpr,
):
    """Multiply all by a factor, rounding once; for a factor of 1 the tensors are not read."""
    factor = tl.load(factor_ptr).to(tl.float32)
    if factor != 1:
        place, _, size, _, block = part_of(tl.program_id(0), tensors, None, sizes, 1, BLOCK)
        start = block.to(tl.int64) * BLOCK
        lane = tl.arange(0, BLOCK)
        inside = lane < size - start
        at = place.to(tensors[0].dtype) + start + lane
        x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        tl.store(at, (x * factor).to(tensors[0].dtype.element_ty), mask=inside)


def multiply(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply dense tensors of one dtype by a 0-d factor, in place."""
    tensors = [x for x in tensors if x.numel()]
    blocks = sum(triton.cdiv(x.numel(), BLOCK) for x in tensors)
    if blocks:
        multiply_kernel[(blocks,)](tuple(tensors), tuple(odd(x.numel()) for x in tensors), factor, BLOCK=BLOCK)
