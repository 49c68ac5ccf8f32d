# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton gives the arguments of its kernels their types when it compiles them.
"""GIoU loss of paired boxes in one Triton kernel: value, and derivative on the first of each pair.

L = 2 - I / (U + ε) - (U + ε) / (H + ε):  dL = a dI + b dA + c dH, U = A + A' - I
b = I / (U + ε)² - 1 / (H + ε),  a = -1 / (U + ε) - b,  c = (U + ε) / (H + ε)²
dI/dx1 = -h where x1 is the overlap's side, dA/dx1 = -(y2 - y1), dH/dx1 = -(hull's height) where x1 is the hull's
side; for two equal sides each counts half. The other sides likewise.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focaldet.kernels.triton_math import factor_of
from focaldet.kernels.triton_parts import total

BLOCK = 256
EPS = tl.constexpr(1e-7)


@triton.jit
def above(x, y):
    """1 where x > y, ½ where they are equal."""
    return tl.where(x > y, 1.0, tl.where(x == y, 0.5, 0.0))


@triton.jit
def load_boxes(boxes_ptr, lane, inside, BLOCK: tl.constexpr):
    """x1, y1, x2, y2: the four of a box in one load."""
    at = boxes_ptr + 4 * lane[:, None] + tl.arange(0, 4)[None, :]
    boxes = tl.load(at, mask=inside[:, None], other=0.0).to(tl.float32)
    x, y = tl.split(tl.reshape(boxes, (BLOCK, 2, 2)))
    x1, x2 = tl.split(x)
    y1, y2 = tl.split(y)
    return x1, y1, x2, y2


@triton.jit(
    do_not_specialize=["pairs"],
    do_not_specialize_on_alignment=["weight_ptr", "normalizer_ptr", "grad_scale_ptr", "loss_ptr"],
)
def giou_kernel(
    boxes_ptr,  # (N, 4), contiguous
    targets_ptr,  # (N, 4), contiguous
    weight_ptr,  # (N,), or none
    normalizer_ptr,  # 0-d, or none
    grad_scale_ptr,  # 0-d, or none: factor of the derivative that replaces scale / normalizer
    loss_ptr,  # a sum for each program, or the losses (N,)
    grad_ptr,  # (N, 4), or none; may be the boxes
    pairs: tl.int64,
    scale: tl.float32,
    REDUCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = lane < pairs - start
    x1, y1, x2, y2 = load_boxes(boxes_ptr + 4 * start, lane, inside, BLOCK)
    s1, t1, s2, t2 = load_boxes(targets_ptr + 4 * start, lane, inside, BLOCK)
    share = tl.full((BLOCK,), 1.0, tl.float32)
    if weight_ptr is not None:
        share = tl.load(weight_ptr + start + lane, mask=inside, other=0.0).to(tl.float32)
    raw_width = tl.minimum(x2, s2) - tl.maximum(x1, s1)
    raw_height = tl.minimum(y2, t2) - tl.maximum(y1, t1)
    width, height = tl.where(raw_width < 0, 0.0, raw_width), tl.where(raw_height < 0, 0.0, raw_height)
    hull_width = tl.maximum(x2, s2) - tl.minimum(x1, s1)
    hull_height = tl.maximum(y2, t2) - tl.minimum(y1, t1)
    overlap, hull = width * height, hull_width * hull_height
    union = (x2 - x1) * (y2 - y1) + (s2 - s1) * (t2 - t1) - overlap
    per_union, per_hull = 1 / (union + EPS), 1 / (hull + EPS)
    # Minimum and maximum skip NaN; the sum of all coordinates does not.
    nan = (x1 + y1 + x2 + y2 + s1 + t1 + s2 + t2) * 0
    loss = share * (1 - overlap * per_union + (hull - union) * per_hull + nan)
    loss = tl.where(share == 0, 0.0, loss)
    factor = factor_of(scale, normalizer_ptr)
    if REDUCE:
        tl.store(loss_ptr + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0), axis=0))
    else:
        tl.store(loss_ptr + start + lane, factor * loss, mask=inside)
    if grad_ptr is not None:
        if grad_scale_ptr is not None:
            factor = tl.load(grad_scale_ptr).to(tl.float32)
        share = factor * tl.where(share == 0, 0.0, share + nan)
        b = overlap * per_union * per_union - per_hull
        a = -per_union - b
        c = (union + EPS) * per_hull * per_hull
        by_width, by_height = tl.where(raw_width < 0, 0.0, a * height), tl.where(raw_height < 0, 0.0, a * width)
        by_x, by_y = b * (y2 - y1), b * (x2 - x1)
        dx1 = share * (-by_width * above(x1, s1) - by_x - c * hull_height * above(s1, x1))
        dy1 = share * (-by_height * above(y1, t1) - by_y - c * hull_width * above(t1, y1))
        dx2 = share * (by_width * above(s2, x2) + by_x + c * hull_height * above(x2, s2))
        dy2 = share * (by_height * above(t2, y2) + by_y + c * hull_width * above(y2, t2))
        grad = tl.reshape(tl.join(tl.join(dx1, dx2), tl.join(dy1, dy2)), (BLOCK, 4))
        at = grad_ptr + 4 * start + 4 * lane[:, None] + tl.arange(0, 4)[None, :]
        tl.store(at, grad.to(grad_ptr.dtype.element_ty), mask=inside[:, None])


def launch(
    boxes: Tensor,
    grad: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    normalizer: Tensor | None,
    grad_scale: Tensor | None,
    kind: int,
    scale: float,
    reduce: bool,
) -> Tensor:
    """The loss; its derivative is written to ``grad`` if given. ``kind`` is 0: the others have no Triton kernel."""
    pairs = boxes.shape[0]
    if pairs == 0:
        return boxes.new_zeros(() if reduce else (0,), dtype=torch.float32)
    programs = triton.cdiv(pairs, BLOCK)
    loss = torch.empty((programs if reduce else pairs,), dtype=torch.float32, device=boxes.device)
    giou_kernel[(programs,)](
        boxes, targets, weight, normalizer, grad_scale, loss, grad, pairs, scale, REDUCE=reduce, BLOCK=BLOCK
    )
    return total(loss, scale, normalizer) if reduce else loss
