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

from focaldet.kernels.triton_sigmoid import factor_tensor

BLOCK = 256
EPS = tl.constexpr(1e-7)


@triton.jit
def above(x, y):
    """1 where x > y, ½ where they are equal."""
    return tl.where(x > y, 1.0, tl.where(x == y, 0.5, 0.0))


@triton.jit
def giou_fwd_kernel(
    boxes_ptr,  # (N, 4), contiguous
    targets_ptr,  # (N, 4), contiguous
    weight_ptr,  # (N,), or none
    factor_ptr,  # 0-d: scale / normalizer
    grad_factor_ptr,  # 0-d: of the derivative
    loss_ptr,  # a sum for each program, or the losses (N,)
    grad_ptr,  # (N, 4), or none; may be the boxes
    pairs,
    HAS_WEIGHT: tl.constexpr,
    REDUCE: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < pairs
    x1 = tl.load(boxes_ptr + 4 * n, mask=inside, other=0.0).to(tl.float32)
    y1 = tl.load(boxes_ptr + 4 * n + 1, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(boxes_ptr + 4 * n + 2, mask=inside, other=0.0).to(tl.float32)
    y2 = tl.load(boxes_ptr + 4 * n + 3, mask=inside, other=0.0).to(tl.float32)
    s1 = tl.load(targets_ptr + 4 * n, mask=inside, other=0.0).to(tl.float32)
    t1 = tl.load(targets_ptr + 4 * n + 1, mask=inside, other=0.0).to(tl.float32)
    s2 = tl.load(targets_ptr + 4 * n + 2, mask=inside, other=0.0).to(tl.float32)
    t2 = tl.load(targets_ptr + 4 * n + 3, mask=inside, other=0.0).to(tl.float32)
    share = tl.full((BLOCK,), 1.0, tl.float32)
    if HAS_WEIGHT:
        share = share * tl.load(weight_ptr + n, mask=inside, other=0.0).to(tl.float32)
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
    loss = tl.where(share == 0, 0.0, loss) * tl.load(factor_ptr)
    if REDUCE:
        tl.store(loss_ptr + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0), axis=0))
    else:
        tl.store(loss_ptr + n, loss, mask=inside)
    if HAS_GRAD:
        share = tl.where(share == 0, 0.0, share + nan) * tl.load(grad_factor_ptr)
        b = overlap * per_union * per_union - per_hull
        a = -per_union - b
        c = (union + EPS) * per_hull * per_hull
        by_width, by_height = tl.where(raw_width < 0, 0.0, a * height), tl.where(raw_height < 0, 0.0, a * width)
        by_x, by_y = b * (y2 - y1), b * (x2 - x1)
        dtype = grad_ptr.dtype.element_ty
        dx1 = share * (-by_width * above(x1, s1) - by_x - c * hull_height * above(s1, x1))
        dy1 = share * (-by_height * above(y1, t1) - by_y - c * hull_width * above(t1, y1))
        dx2 = share * (by_width * above(s2, x2) + by_x + c * hull_height * above(x2, s2))
        dy2 = share * (by_height * above(t2, y2) + by_y + c * hull_width * above(y2, t2))
        tl.store(grad_ptr + 4 * n, dx1.to(dtype), mask=inside)
        tl.store(grad_ptr + 4 * n + 1, dy1.to(dtype), mask=inside)
        tl.store(grad_ptr + 4 * n + 2, dx2.to(dtype), mask=inside)
        tl.store(grad_ptr + 4 * n + 3, dy2.to(dtype), mask=inside)


def launch(
    boxes: Tensor,
    grad: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    normalizer: Tensor | None,
    grad_scale: Tensor | None,
    scale: float,
    reduce: bool,
) -> Tensor:
    """The loss; its derivative goes to ``grad`` when there is one."""
    pairs = boxes.shape[0]
    if pairs == 0:
        return boxes.new_zeros(() if reduce else (0,), dtype=torch.float32)
    programs = triton.cdiv(pairs, BLOCK)
    loss = torch.empty((programs if reduce else pairs,), dtype=torch.float32, device=boxes.device)
    factor = factor_tensor(boxes, scale, normalizer)
    giou_fwd_kernel[(programs,)](
        boxes,
        targets,
        weight,
        factor,
        factor if grad_scale is None else grad_scale.float(),
        loss,
        grad,
        pairs,
        HAS_WEIGHT=weight is not None,
        REDUCE=reduce,
        HAS_GRAD=grad is not None,
        BLOCK=BLOCK,
    )
    return loss.sum(dtype=torch.float64).float() if reduce else loss
