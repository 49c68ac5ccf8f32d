# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton gives the arguments of its kernels their types when it compiles them.
"""The sigmoid losses in one Triton kernel: value and derivative, each logit read once and each derivative written once.

    p = σ(z), q = 1 - p, BCE = -(y log p + (1 - y) log q), dBCE/dz = p - y, dp/dz = p q

    focal              t^γ BCE, t = y q + (1 - y) p:   t^γ (p - y) + γ t^γ (p q / t) (1 - 2y) BCE
    quality focal      |d|^γ BCE, d = p - y:           |d|^γ d + γ |d|^(γ-1) sgn(d) p q BCE
    varifocal          y BCE for y > 0, else α p^γ softplus(z):   y (p - y), else α p^γ (p + γ q softplus(z))
    matchability       BCE(z, y^γ) for y > 0, else α p^γ softplus(z) with p^γ constant:   p - y^γ, else α p^γ p

A label that is neither a class nor BACKGROUND nor IGNORED makes its row NaN: looking at labels on the host would stall
the device, and a NaN cannot be overlooked. No address is computed from a label.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focaldet.kernels.triton_math import BACKGROUND, IGNORED, TINY, log1p_unit, power, power_of

BLOCK = 1024


@triton.jit
def formula(z, y, gamma, alpha, KIND: tl.constexpr, POWER: tl.constexpr):
    """Loss and derivative; KIND is the index of the kind in ``focaldet.losses.sigmoid_family.KINDS``."""
    u = tl.exp(-tl.abs(z))
    large = 1 / (1 + u)
    small = u * large
    negative = z < 0
    p = tl.where(negative, small, large)
    q = tl.where(negative, large, small)
    log1p_exp = log1p_unit(u)
    target = y
    if KIND == 4:
        target = power(y, gamma, POWER)
    bce = tl.where(negative, -target, 1 - target) * z + log1p_exp
    d = tl.where(negative, p - target, (1 - target) - q)
    if KIND == 0:
        loss, grad = bce, d
    elif KIND == 1:
        t = y * q + (1 - y) * p
        factor = power(t, gamma, POWER)
        loss = factor * bce
        grad = factor * d + gamma * factor * (p * q / tl.where(t == 0, 1.0, t)) * (1 - 2 * y) * bce
    elif KIND == 2:
        factor = power(tl.abs(d), gamma, POWER)
        loss = factor * bce
        grad = factor * d
        if POWER != 0:
            # p q / d first: for a saturated logit it is 1, and |d|^γ / d overflows.
            ratio = tl.where(tl.abs(d) < TINY, 0.0, p * q / tl.where(tl.abs(d) < TINY, 1.0, d))
            grad += gamma * factor * ratio * bce
    else:
        softplus = tl.where(negative, 0.0, z) + log1p_exp
        factor = alpha * power(p, gamma, POWER)
        if KIND == 3:
            loss = tl.where(y > 0, y * bce, factor * softplus)
            grad = tl.where(y > 0, y * d, factor * (p + gamma * q * softplus))
        else:
            loss = tl.where(y > 0, bce, factor * softplus)
            grad = tl.where(y > 0, d, factor * p)
    return loss, grad


@triton.jit
def sigmoid_fwd_kernel(
    logits_ptr,  # (O, C, I), contiguous
    labels_ptr,  # (O, I) int64, or none
    quality_ptr,  # (O, I), or none
    targets_ptr,  # (O, C, I), or none
    weight_ptr,  # broadcast by its strides, or none
    class_alpha_ptr,  # (C,), or none
    factor_ptr,  # 0-d: scale / normalizer
    grad_factor_ptr,  # 0-d: of the derivative
    loss_ptr,  # a sum for each program, or the losses (O, C, I)
    grad_ptr,  # (O, C, I), or none; may be the logits
    total,
    num_classes,
    inner,
    weight_stride_o,
    weight_stride_c,
    weight_stride_i,
    gamma,
    alpha,  # of the negatives of varifocal and matchability-aware loss
    weight_0,  # focal loss: target y weighs weight_0 + weight_1 y
    weight_1,
    KIND: tl.constexpr,
    POWER: tl.constexpr,
    SPARSE: tl.constexpr,
    HAS_QUALITY: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_CLASS_ALPHA: tl.constexpr,
    REDUCE: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = e < total
    z = tl.load(logits_ptr + e, mask=inside, other=0.0).to(tl.float32)
    o = e // (num_classes * inner)
    c = e // inner % num_classes
    i = e % inner
    ignored = e < 0
    wrong = e < 0
    if SPARSE:
        site = o * inner + i
        label = tl.load(labels_ptr + site, mask=inside, other=-1)
        hit = (label == c) & inside
        ignored = label == IGNORED
        wrong = (label >= num_classes) | ((label < 0) & (label != BACKGROUND) & (label != IGNORED))
        if HAS_QUALITY:
            y = tl.load(quality_ptr + site, mask=hit, other=0.0).to(tl.float32)
        else:
            y = tl.where(hit, 1.0, 0.0)
    else:
        y = tl.load(targets_ptr + e, mask=inside, other=0.0).to(tl.float32)
    loss, grad = formula(z, y, gamma, alpha, KIND, POWER)
    share = weight_0 + weight_1 * y
    if HAS_CLASS_ALPHA:
        class_alpha = tl.load(class_alpha_ptr + c, mask=inside, other=0.0).to(tl.float32)
        if KIND == 1:
            share = class_alpha * y + (1 - class_alpha) * (1 - y)
        else:
            share = tl.where(y > 0, 1.0, class_alpha)
    if HAS_WEIGHT:
        at = o * weight_stride_o + c * weight_stride_c + i * weight_stride_i
        share = share * tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(factor_ptr)
    none = ignored | (share == 0)  # no loss and no gradient, whatever stands there
    loss = tl.where(wrong, float("nan"), tl.where(none, 0.0, share * loss))
    if REDUCE:
        tl.store(loss_ptr + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0), axis=0))
    else:
        tl.store(loss_ptr + e, factor * loss, mask=inside)
    if HAS_GRAD:
        grad = tl.where(wrong, float("nan"), tl.where(none, 0.0, tl.load(grad_factor_ptr) * share * grad))
        tl.store(grad_ptr + e, grad.to(grad_ptr.dtype.element_ty), mask=inside)


def factor_tensor(logits: Tensor, scale: float, normalizer: Tensor | None) -> Tensor:
    """scale / normalizer where the kernels read it: on the device, so that nothing waits."""
    factor = torch.full((), scale, dtype=torch.float32, device=logits.device)
    return factor if normalizer is None else factor / normalizer.float()


def launch(
    logits: Tensor,
    grad: Tensor | None,
    labels: Tensor | None,
    quality: Tensor | None,
    targets: Tensor | None,
    weight: Tensor | None,
    class_alpha: Tensor | None,
    normalizer: Tensor | None,
    grad_scale: Tensor | None,
    kind: int,
    gamma: float,
    alpha: float | None,
    scale: float,
    reduce: bool,
) -> Tensor:
    """The loss; its derivative goes to ``grad`` when there is one."""
    _, num_classes, inner = logits.shape
    total = logits.numel()
    factor = factor_tensor(logits, scale, normalizer)
    if total == 0:
        return logits.new_zeros(() if reduce else logits.shape, dtype=torch.float32)
    programs = triton.cdiv(total, BLOCK)
    loss = torch.empty((programs,) if reduce else logits.shape, dtype=torch.float32, device=logits.device)
    share = alpha if kind == 1 and class_alpha is None else None
    strides = [0, 0, 0]
    if weight is not None:
        strides = [0 if n == 1 else s for n, s in zip(weight.shape, weight.stride(), strict=True)]
    sigmoid_fwd_kernel[(programs,)](
        logits,
        labels,
        quality,
        targets,
        weight,
        class_alpha,
        factor,
        factor if grad_scale is None else grad_scale.float(),
        loss,
        grad,
        total,
        num_classes,
        inner,
        *strides,
        gamma,
        1.0 if alpha is None or class_alpha is not None else alpha,
        1.0 if share is None else 1.0 - share,
        0.0 if share is None else 2.0 * share - 1.0,
        KIND=kind,
        POWER=power_of(gamma),
        SPARSE=labels is not None,
        HAS_QUALITY=quality is not None,
        HAS_WEIGHT=weight is not None,
        HAS_CLASS_ALPHA=class_alpha is not None,
        REDUCE=reduce,
        HAS_GRAD=grad is not None,
        BLOCK=BLOCK,
    )
    # Two steps, each in a fixed order: two runs give the same bits.
    return (loss.sum(dtype=torch.float64) * factor).float() if reduce else loss
