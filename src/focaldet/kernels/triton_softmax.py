# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton gives the arguments of its kernels their types when it compiles them.
"""Cross entropy, focal loss and distribution focal loss over a softmax in one Triton kernel: value and derivative.

    p_k = exp(z_k - m) / s,  m = max z,  s = Σ exp(z_k - m)

    focal, label t   M S, M = (1 - p_t)^γ, S = -Σ c_k log p_k, c_k = (1 - ε) α_t [k = t] + ε/K α_k, c = Σ c_k
                     with a = M, b = γ M p_t S:
                     a c p_k + b p_k / (1 - p_t) - a c_k for k != t,  -a c (1 - p_t) - b + a (c - c_t) for k = t
    distribution     S = -((1 - w) log p_i + w log p_{i+1}), y = i + w:   p_k - (1 - w) [k = i] - w [k = i + 1]

A label or position out of range makes its row NaN, as in `triton_sigmoid`; no address is computed from it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focaldet.kernels.triton_math import TINY, log1p_unit, power, power_of
from focaldet.kernels.triton_sigmoid import factor_tensor


@triton.jit
def softmax_fwd_kernel(
    logits_ptr,  # (O, K, I), contiguous
    labels_ptr,  # (O, I) int64, or none
    positions_ptr,  # (O, I), or none
    weight_ptr,  # (O, I), or none
    class_alpha_ptr,  # (K,), or none
    factor_ptr,  # 0-d: scale / normalizer
    grad_factor_ptr,  # 0-d: of the derivative
    loss_ptr,  # a sum for each program, or the losses (O, I)
    grad_ptr,  # (O, K, I), or none; may be the logits
    rows,
    num_classes,
    inner,
    gamma,
    smoothing,
    ignore_index,
    POWER: tl.constexpr,
    LABELS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_CLASS_ALPHA: tl.constexpr,
    SMOOTHED_ALPHA: tl.constexpr,
    REDUCE: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, COLUMNS)
    row_inside = r < rows
    start = r // inner * num_classes * inner + r % inner
    at = start[:, None] + (k * inner)[None, :]
    inside = row_inside[:, None] & (k < num_classes)[None, :]
    z = tl.load(logits_ptr + at, mask=inside, other=float("-inf")).to(tl.float32)
    z = tl.where(row_inside[:, None], z, 0.0)
    share = tl.full((ROWS,), 1.0, tl.float32)
    if HAS_WEIGHT:
        share = share * tl.load(weight_ptr + r, mask=row_inside, other=0.0).to(tl.float32)
    if LABELS:
        label = tl.load(labels_ptr + r, mask=row_inside, other=0)
        ignored = label == ignore_index
        wrong = ((label < 0) | (label >= num_classes)) & (ignored == 0)
        label = tl.where(ignored | wrong, 0, label)
        if HAS_CLASS_ALPHA and not SMOOTHED_ALPHA:
            share = share * tl.load(class_alpha_ptr + label, mask=row_inside, other=0.0).to(tl.float32)
    else:
        position = tl.load(positions_ptr + r, mask=row_inside, other=0.0).to(tl.float32)
        ignored = r < 0
        wrong = ((position >= 0) & (position <= num_classes - 1)) == 0
        position = tl.where(wrong, 0.0, position)
    none = ignored | (share == 0)  # no loss and no gradient, whatever stands there
    share = tl.where(none, 0.0, share)
    z = tl.where(none[:, None], tl.where(inside, 0.0, float("-inf")), z)
    z = z - tl.max(z, axis=1)[:, None]
    # The maximum skips NaN; the sum does not.
    e = tl.exp(z)
    if LABELS:
        hit = k[None, :] == label[:, None]
        others = tl.sum(tl.where(hit, 0.0, e), axis=1)
        z_hit = tl.sum(tl.where(hit, z, 0.0), axis=1)
        e_hit = tl.exp(z_hit)
        inverse = 1 / (e_hit + others)
        miss = tl.where(e_hit < others, 1 - e_hit * inverse, others * inverse)
        leads = (z_hit == 0) & (others < 1)
        log_sum = tl.where(leads, log1p_unit(others), tl.log(e_hit + others))
        own = tl.full((ROWS,), 1.0, tl.float32)
        alpha = tl.where(k < num_classes, 1.0, 0.0)
        if SMOOTHED_ALPHA:
            own = tl.load(class_alpha_ptr + label, mask=row_inside, other=0.0).to(tl.float32)
            alpha = tl.load(class_alpha_ptr + k, mask=k < num_classes, other=0.0).to(tl.float32)
        alpha_sum = tl.sum(alpha, axis=0)
        z_sum = tl.sum(tl.where(inside & (alpha != 0)[None, :], alpha[None, :] * z, 0.0), axis=1)
        rest = smoothing / num_classes
        smoothed = (1 - smoothing) * own * (log_sum - z_hit) + rest * (alpha_sum * log_sum - z_sum)
        whole = (1 - smoothing) * own + rest * alpha_sum
        a = share * power(miss, gamma, POWER)
        loss = a * smoothed
        at_label = a * rest * (alpha_sum - own) - a * whole * miss
        away = e * (a * whole * inverse)[:, None] - (a * rest)[:, None] * alpha[None, :]
        if POWER != 0:
            few = others < TINY
            b = tl.where(few, 0.0, gamma * a * (e_hit * inverse) * smoothed)
            at_label -= b
            away += e * (1 / tl.where(few, 1.0, others))[:, None] * b[:, None]
        grad = tl.where(hit, at_label[:, None], away)
    else:
        left = tl.minimum(tl.floor(position), num_classes - 2.0)
        right_weight = position - left
        index = k.to(tl.float32)[None, :]
        share_k = tl.where(index == left[:, None], (1 - right_weight)[:, None], 0.0)
        share_k = tl.where(index == left[:, None] + 1, right_weight[:, None], share_k)
        total = tl.sum(e, axis=1)
        loss = share * (tl.log(total) - tl.sum(tl.where(share_k == 0, 0.0, share_k * z), axis=1))
        grad = share[:, None] * (e / total[:, None] - share_k)
    loss = tl.where(wrong, float("nan"), tl.where(none, 0.0, loss)) * tl.load(factor_ptr)
    if REDUCE:
        tl.store(loss_ptr + tl.program_id(0), tl.sum(tl.where(row_inside, loss, 0.0), axis=0))
    else:
        tl.store(loss_ptr + r, loss, mask=row_inside)
    if HAS_GRAD:
        grad = tl.where(wrong[:, None], float("nan"), tl.where(none[:, None], 0.0, grad * tl.load(grad_factor_ptr)))
        tl.store(grad_ptr + at, grad.to(grad_ptr.dtype.element_ty), mask=inside)


def launch(
    logits: Tensor,
    grad: Tensor | None,
    labels: Tensor | None,
    positions: Tensor | None,
    weight: Tensor | None,
    class_alpha: Tensor | None,
    normalizer: Tensor | None,
    grad_scale: Tensor | None,
    gamma: float,
    label_smoothing: float,
    ignore_index: int,
    scale: float,
    reduce: bool,
) -> Tensor:
    """The loss; its derivative goes to ``grad`` when there is one."""
    outer, num_classes, inner = logits.shape
    rows = outer * inner
    if rows == 0:
        return logits.new_zeros(() if reduce else (outer, inner), dtype=torch.float32)
    columns = triton.next_power_of_2(num_classes)
    tile = max(1, 1024 // columns)
    programs = triton.cdiv(rows, tile)
    loss = torch.empty((programs,) if reduce else (outer, inner), dtype=torch.float32, device=logits.device)
    factor = factor_tensor(logits, scale, normalizer)
    softmax_fwd_kernel[(programs,)](
        logits,
        labels,
        positions,
        weight,
        class_alpha,
        factor,
        factor if grad_scale is None else grad_scale.float(),
        loss,
        grad,
        rows,
        num_classes,
        inner,
        gamma,
        label_smoothing,
        ignore_index,
        POWER=power_of(gamma),
        LABELS=labels is not None,
        HAS_WEIGHT=weight is not None,
        HAS_CLASS_ALPHA=class_alpha is not None,
        SMOOTHED_ALPHA=class_alpha is not None and label_smoothing != 0,
        REDUCE=reduce,
        HAS_GRAD=grad is not None,
        ROWS=tile,
        COLUMNS=columns,
    )
    return loss.sum(dtype=torch.float64).float() if reduce else loss
