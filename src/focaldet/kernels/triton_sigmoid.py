# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton gives the arguments of its kernels their types when it compiles them.
"""The sigmoid losses in one Triton kernel: value and derivative, each logit read once and each derivative written once.

    p = σ(z), q = 1 - p, BCE = -(y log p + (1 - y) log q), dBCE/dz = p - y, dp/dz = p q

    focal              t^γ BCE, t = y q + (1 - y) p:   t^γ (p - y) + γ t^γ (p q / t) (1 - 2y) BCE
    quality focal      |d|^γ BCE, d = p - y:           |d|^γ d + γ |d|^(γ-1) sgn(d) p q BCE
    varifocal          y BCE for y > 0, else α p^γ softplus(z):   y (p - y), else α p^γ (p + γ q softplus(z))
    matchability       BCE(z, y^γ) for y > 0, else α p^γ softplus(z) with p^γ constant:   p - y^γ, else α p^γ p
    IoU-aware BCE      BCE(z, t) for y > 0, t = max(p^α y^(1-α), .01), else p^γ softplus(z):   p - t, else as varifocal

A label that is neither a class nor BACKGROUND nor IGNORED makes its row NaN: checking labels on the host would stall
the device, and a NaN is hard to overlook. No address is computed from a label.

One launch takes all maps of a pyramid, in either memory format; a single tensor is a pyramid of one map.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from focaldet.kernels.triton_math import BACKGROUND, IGNORED, TINY, factor_of, log1p_unit, power, power_of
from focaldet.kernels.triton_parts import odd, part_of, total

LANES = 512
STEPS = 8
"""A program processes LANES elements at a time, STEPS times."""

BINARY_CROSS_ENTROPY = tl.constexpr(0)
FOCAL = tl.constexpr(1)
QUALITY_FOCAL = tl.constexpr(2)
VARIFOCAL = tl.constexpr(3)
MATCHABILITY_AWARE = tl.constexpr(4)
IOU_AWARE_BCE = tl.constexpr(5)
"""The kinds of loss, numbered as in ``focaldet.functional.operators.sigmoid.KINDS``."""


@triton.jit
def power_over(d, x, factor, POWER: tl.constexpr):
    """|d|^γ x / d for d in [-1, 1], where ``factor`` is |d|^γ; 0 for d = 0."""
    if POWER == 2:
        result = d * x
    else:
        # x / d first: for a saturated logit it is 1, and |d|^γ / d overflows.
        tiny = tl.abs(d) < TINY
        result = factor * tl.where(tiny, 0.0, x / tl.where(tiny, 1.0, d))
    return result


@triton.jit
def formula(z, y, gamma, alpha, KIND: tl.constexpr, POWER: tl.constexpr):
    """Loss and derivative of a kind."""
    u = tl.exp(-tl.abs(z))
    large = 1 / (1 + u)
    small = u * large
    negative = z < 0
    p = tl.where(negative, small, large)
    q = tl.where(negative, large, small)
    log1p_exp = log1p_unit(u)
    target = y
    if KIND == MATCHABILITY_AWARE:
        target = power(y, gamma, POWER)
    elif KIND == IOU_AWARE_BCE:
        log_p = tl.where(negative, tl.maximum(z, -1e30), 0.0) - log1p_exp
        log_t = alpha * log_p + (1 - alpha) * tl.log(tl.where(y > 0, y, 1.0))
        target = tl.maximum(tl.exp(log_t), 0.01)
    side = tl.where(negative, -target, 1 - target)
    bce = tl.where(side == 0, 0.0, side * z) + log1p_exp  # a class that is masked by -inf has no loss
    d = tl.where(negative, p - target, (1 - target) - q)
    if KIND == BINARY_CROSS_ENTROPY:
        loss, grad = bce, d
    elif KIND == FOCAL:
        t = y * q + (1 - y) * p
        factor = power(t, gamma, POWER)
        loss = factor * bce
        grad = factor * d
        if POWER != 0:
            grad += gamma * (1 - 2 * y) * bce * power_over(t, p * q, factor, POWER)
    elif KIND == QUALITY_FOCAL:
        factor = power(tl.abs(d), gamma, POWER)
        loss = factor * bce
        grad = factor * d
        if POWER != 0:
            grad += gamma * bce * power_over(d, p * q, factor, POWER)
    else:
        softplus = tl.where(negative, 0.0, z) + log1p_exp
        factor = power(p, gamma, POWER)
        if KIND != IOU_AWARE_BCE:
            factor *= alpha
        if KIND == IOU_AWARE_BCE:
            slope = p
            if POWER != 0:
                slope += gamma * q * softplus
            loss = tl.where(y > 0, bce, factor * softplus)
            grad = tl.where(y > 0, d, factor * slope)
        elif KIND == VARIFOCAL:
            loss = tl.where(y > 0, y * bce, factor * softplus)
            slope = p
            if POWER != 0:
                slope += gamma * q * softplus
            grad = tl.where(y > 0, y * d, factor * slope)
        else:
            loss = tl.where(y > 0, bce, factor * softplus)
            grad = tl.where(y > 0, d, factor * p)
    return loss, grad


@triton.jit
def load_labels(labels_ptr, sites, inside, NUM_CLASSES: tl.constexpr):
    """Labels as int32, and a factor for each: 0 where it is ignored, NaN where it is out of range."""
    whole = tl.load(labels_ptr + sites, mask=inside, other=BACKGROUND)
    known = (whole >= IGNORED) & (whole < NUM_CLASSES)  # BACKGROUND lies between
    return whole.to(tl.int32), tl.where(known, tl.where(whole == IGNORED, 0.0, 1.0), float("nan"))


@triton.jit(
    do_not_specialize=["blocks", "num_sites", "weight_stride_b", "weight_stride_p", "weight_stride_c"],
    do_not_specialize_on_alignment=[
        f"{name}_ptr"
        for name in ("labels", "quality", "targets", "weight", "class_alpha", "normalizer", "grad_scale", "loss")
    ],
)
def sigmoid_kernel(
    maps,  # tuple of (B, A * C, I), or with CLASSES_LAST of (B, I, A * C)
    grads,  # tuple of the same, or none; may be the maps
    sizes,  # tuple of I, each `odd`
    labels_ptr,  # (B, P) int64, or none; P runs over the maps, the locations of a map, and the A anchors of a location
    quality_ptr,  # (B, P), or none
    targets_ptr,  # as the only map, or none
    weight_ptr,  # broadcast to (B, P, C) by its strides, or none
    class_alpha_ptr,  # (C,), or none
    normalizer_ptr,  # 0-d, or none
    grad_scale_ptr,  # 0-d: factor of the derivative in place of scale / normalizer, or none
    loss_ptr,  # a sum for each program, or the losses, as the only map
    blocks: tl.int32,  # of one image and, unless CLASSES_LAST, of one anchor and some classes
    num_sites: tl.int64,  # P
    weight_stride_b: tl.int64,
    weight_stride_p: tl.int64,
    weight_stride_c: tl.int64,
    scale: tl.float32,
    gamma: tl.float32,
    alpha: tl.float32,  # of the negatives of varifocal and matchability-aware loss; share α of IoU-aware BCE
    weight_0: tl.float32,  # focal loss: target y weighs weight_0 + weight_1 y
    weight_1: tl.float32,
    KIND: tl.constexpr,
    POWER: tl.constexpr,
    NUM_CLASSES: tl.constexpr,
    NUM_ANCHORS: tl.constexpr,
    CLASSES_LAST: tl.constexpr,
    REDUCE: tl.constexpr,
    LANES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """A program takes LANES locations for STEPS classes; with CLASSES_LAST, LANES * STEPS consecutive logits.

    Its start is computed once in int64; its lanes are offsets from there in int32. The numbers of classes and anchors
    are constants, so that dividing by them is a multiplication.
    """
    program = tl.program_id(0)
    lane = tl.arange(0, LANES)
    if CLASSES_LAST:
        image = program // blocks
        place, grad_place, locations, first_location, block = part_of(
            program % blocks, maps, grads, sizes, NUM_ANCHORS * NUM_CLASSES, LANES * STEPS
        )
        start = block.to(tl.int64) * (LANES * STEPS)
        size = locations * (NUM_ANCHORS * NUM_CLASSES)
        left = tl.minimum(size - start, LANES * STEPS).to(tl.int32)
        row = start // NUM_CLASSES
        column = (start - row * NUM_CLASSES).to(tl.int32)
        at, stride = image * size + start, LANES
        first_step, last_step = 0, tl.cdiv(left, LANES)
    else:
        chunks: tl.constexpr = (NUM_CLASSES + STEPS - 1) // STEPS
        group = program // chunks // blocks
        image = group // NUM_ANCHORS
        place, grad_place, locations, first_location, block = part_of(
            program // chunks % blocks, maps, grads, sizes, 1, LANES
        )
        start = block.to(tl.int64) * LANES
        left = tl.minimum(locations - start, LANES).to(tl.int32)
        row = start * NUM_ANCHORS + group % NUM_ANCHORS
        first_step = program % chunks * STEPS
        at, stride = (group.to(tl.int64) * NUM_CLASSES + first_step) * locations + start, locations
        last_step = tl.minimum(first_step + STEPS, NUM_CLASSES)
    image = image.to(tl.int64)
    row += first_location * NUM_ANCHORS
    logits_ptr = place.to(maps[0].dtype)
    grad_ptr = logits_ptr
    if grads is not None:
        grad_ptr = grad_place.to(grads[0].dtype)
    factor = factor_of(scale, normalizer_ptr)
    grad_factor = factor
    if grad_scale_ptr is not None:
        grad_factor = tl.load(grad_scale_ptr).to(tl.float32)

    inside = lane < left
    site = lane * NUM_ANCHORS
    if labels_ptr is not None:
        labels_ptr += image * num_sites + row
        if quality_ptr is not None:
            quality_ptr += image * num_sites + row
        if not CLASSES_LAST:
            label, counts = load_labels(labels_ptr, site, inside, NUM_CLASSES)
    if weight_ptr is not None:
        weight_ptr += image * weight_stride_b + row * weight_stride_p
    sums = tl.zeros((LANES,), tl.float32)
    for step in range(first_step, last_step):
        c = step
        if CLASSES_LAST:
            inside = step * LANES + lane < left
            site = (column + step * LANES + lane) // NUM_CLASSES
            c = (column + step * LANES + lane) % NUM_CLASSES
            if labels_ptr is not None:
                label, counts = load_labels(labels_ptr, site, inside, NUM_CLASSES)
        z = tl.load(logits_ptr + at + lane, mask=inside, other=0.0).to(tl.float32)
        if labels_ptr is not None:
            hit = label == c
            if quality_ptr is not None:
                y = tl.load(quality_ptr + site, mask=hit & inside, other=0.0).to(tl.float32)
            else:
                y = tl.where(hit, 1.0, 0.0)
        else:
            y = tl.load(targets_ptr + at + lane, mask=inside, other=0.0).to(tl.float32)
        loss, grad = formula(z, y, gamma, alpha, KIND, POWER)
        share = weight_0 + weight_1 * y
        if class_alpha_ptr is not None:
            class_alpha = tl.load(class_alpha_ptr + c).to(tl.float32)
            if KIND == FOCAL:
                share = class_alpha * y + (1 - class_alpha) * (1 - y)
            else:
                share = tl.where(y > 0, 1.0, class_alpha)
        if weight_ptr is not None:
            weight_at = site.to(tl.int64) * weight_stride_p + c * weight_stride_c
            share = share * tl.load(weight_ptr + weight_at, mask=inside, other=0.0).to(tl.float32)
        none = share == 0  # no loss and no gradient, even for NaN
        if labels_ptr is not None:
            none = none | (counts == 0)
            share = share * counts
        loss = tl.where(none, 0.0, share * loss)
        if REDUCE:
            sums += tl.where(inside, loss, 0.0)
        else:
            tl.store(loss_ptr + at + lane, factor * loss, mask=inside)
        if grads is not None:
            grad = tl.where(none, 0.0, grad_factor * share * grad)
            tl.store(grad_ptr + at + lane, grad.to(grad_ptr.dtype.element_ty), mask=inside)
        at += stride
    if REDUCE:
        tl.store(loss_ptr + program, tl.sum(sums, axis=0))


def broadcast_strides(weight: Tensor | None) -> list[int]:
    """The strides of a weight with three axes; 0 for axes of length 1."""
    if weight is None:
        return [0, 0, 0]
    return [0 if n == 1 else s for n, s in zip(weight.shape, weight.stride(), strict=True)]


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
    """The loss of logits ``(O, C, I)``; its derivative is written to ``grad`` if given."""
    outer, num_classes, inner = logits.shape
    o, c, i = broadcast_strides(weight)
    batch, locations, strides = (1, outer, [0, o, c]) if inner == 1 else (outer, inner, [o, i, c])
    if labels is None and class_alpha is None and not any(strides):  # classes are interchangeable
        batch, num_classes, locations, inner = 1, 1, logits.numel(), 1
    return _launch(
        [logits],
        None if grad is None else [grad],
        [locations],
        (batch, locations, 1, num_classes),
        inner == 1,
        (labels, quality, targets, weight, class_alpha, normalizer, grad_scale),
        strides,
        (kind, gamma, alpha, scale),
        reduce,
    )


def launch_pyramid(
    maps: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    labels: Tensor,
    quality: Tensor | None,
    targets: None,
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
    """The sum over maps ``(B, A * C, H, W)``, all in one memory format; the derivatives go to ``grads``.

    Labels, quality ``(B, P)`` and weight ``(B, P, C)`` cover the locations of all maps.
    """
    locations = [x.shape[2] * x.shape[3] for x in maps]
    batch, num_sites = labels.shape
    num_anchors = num_sites // sum(locations)
    return _launch(
        maps,
        grads,
        locations,
        (batch, num_sites, num_anchors, maps[0].shape[1] // num_anchors),
        not all(x.is_contiguous() for x in maps),
        (labels, quality, targets, weight, class_alpha, normalizer, grad_scale),
        broadcast_strides(weight),
        (kind, gamma, alpha, scale),
        reduce,
    )


def _launch(
    maps: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    locations: Sequence[int],
    shape: tuple[int, int, int, int],
    classes_last: bool,
    tensors: tuple[Tensor | None, ...],
    weight_strides: Sequence[int],
    numbers: tuple[int, float, float | None, float],
    reduce: bool,
) -> Tensor:
    """The loss of maps. ``locations``: number per map; ``shape``: images, P, anchors and classes."""
    batch, num_sites, num_anchors, num_classes = shape
    *_, class_alpha, normalizer, _ = tensors
    kind, gamma, alpha, scale = numbers
    if classes_last:
        blocks = sum(triton.cdiv(n * num_anchors * num_classes, LANES * STEPS) for n in locations)
        programs = blocks * batch
    else:
        blocks = sum(triton.cdiv(n, LANES) for n in locations)
        programs = blocks * batch * num_anchors * triton.cdiv(num_classes, STEPS)
    if programs == 0:
        return maps[0].new_zeros(() if reduce else maps[0].shape, dtype=torch.float32)
    loss = torch.empty((programs,) if reduce else maps[0].shape, dtype=torch.float32, device=maps[0].device)
    by_target = alpha if kind == 1 and class_alpha is None else None
    sigmoid_kernel[(programs,)](
        tuple(maps),
        None if grads is None else tuple(grads),
        tuple(map(odd, locations)),
        *tensors,
        loss,
        blocks,
        num_sites,
        *weight_strides,
        scale,
        gamma,
        1.0 if alpha is None or class_alpha is not None else alpha,
        1.0 if by_target is None else 1.0 - by_target,
        0.0 if by_target is None else 2.0 * by_target - 1.0,
        KIND=kind,
        POWER=power_of(gamma),
        NUM_CLASSES=num_classes,
        NUM_ANCHORS=num_anchors,
        CLASSES_LAST=classes_last,
        REDUCE=reduce,
        LANES=LANES,
        STEPS=STEPS,
    )
    return total(loss, scale, normalizer) if reduce else loss
