# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment"
# Triton gives the arguments of its kernels their types when it compiles them.
"""Cross entropy, focal loss, distribution focal loss and distillation in one Triton kernel: value and derivative.

    p_k = exp(z_k - m) / s,  m = max z,  s = Σ exp(z_k - m)

    focal, label t   M S, M = (1 - p_t)^γ, S = -Σ c_k log p_k, c_k = (1 - ε) α_t [k = t] + ε/K α_k, c = Σ c_k
                     with a = M, b = γ M p_t S:
                     a c p_k + b p_k / (1 - p_t) - a c_k for k != t,  -a c (1 - p_t) - b + a (c - c_t) for k = t
    distribution     S = -((1 - w) log p_i + w log p_{i+1}), y = i + w:   p_k - (1 - w) [k = i] - w [k = i + 1]
    distillation     T² Σ q_k log(q_k / p_k), p and q of the logits z and of the teacher's, all divided by T
                     = T² Σ q_k (exp(r_k) - 1 - r_k), no term negative, r_k = log(p_k / q_k):   T (p_k - q_k)

A label or position out of range makes its row NaN, as in `triton_sigmoid`; no address is computed from it.

A program takes several whole rows. The sides of Triton's tiles are powers of two, so 17 columns would leave almost half
of 32 lanes idle. A row is therefore cut into tiles, here of 16 columns and of 1. The last tile is narrow, since it
decides how many threads share a row and each of them repeats the arithmetic per row: here a row has one thread.
"""

from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from focaldet.kernels.triton_math import TINY, exp_excess, factor_of, log1p_unit, power, power_of
from focaldet.kernels.triton_parts import total


@triton.jit
def class_weights(class_alpha_ptr, k, NUM_CLASSES: tl.constexpr):
    """α of the classes, 0 beyond them."""
    alpha = tl.where(k < NUM_CLASSES, 1.0, 0.0)
    if class_alpha_ptr is not None:
        alpha = tl.load(class_alpha_ptr + k, mask=k < NUM_CLASSES, other=0.0).to(tl.float32)
    return alpha


@triton.jit
def bin_share(column, left, right_share):
    """Share of the target in each bin: the two bins around the position share it, all others have 0."""
    share = tl.where(column[None, :] == left[:, None], (1 - right_share)[:, None], 0.0)
    return tl.where(column[None, :] == left[:, None] + 1, right_share[:, None], share)


@triton.jit(
    do_not_specialize=["rows", "blocks", "ignore_index"],
    do_not_specialize_on_alignment=[
        f"{name}_ptr"
        for name in (
            "logits",
            "labels",
            "positions",
            "teacher",
            "weight",
            "class_alpha",
            "normalizer",
            "grad_scale",
            "loss",
            "grad",
        )
    ],
)
def softmax_kernel(
    logits_ptr,  # (O, K, I), contiguous
    labels_ptr,  # (O, I) int64, or none
    positions_ptr,  # (O, I), or none
    teacher_ptr,  # (O, K, I), or none
    weight_ptr,  # (O, I), or none
    class_alpha_ptr,  # (K,), or none
    normalizer_ptr,  # 0-d, or none
    grad_scale_ptr,  # 0-d: factor of the derivative in place of scale / normalizer, or none
    loss_ptr,  # a sum for each program, or the losses (O, I)
    grad_ptr,  # (O, K, I), or none; may be the logits
    rows: tl.int64,  # I; all rows when CLASSES_LAST
    blocks: tl.int32,  # of ROWS of these
    ignore_index: tl.int64,
    scale: tl.float32,
    gamma: tl.float32,
    smoothing: tl.float32,
    temperature: tl.float32,
    POWER: tl.constexpr,
    SMOOTHED: tl.constexpr,
    NUM_CLASSES: tl.constexpr,
    CLASSES_LAST: tl.constexpr,  # I is 1
    REDUCE: tl.constexpr,
    ROWS: tl.constexpr,
    FIRSTS: tl.constexpr,  # columns where the tiles begin
    WIDTHS: tl.constexpr,
):
    program = tl.program_id(0)
    lane = tl.arange(0, ROWS)
    group = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * ROWS
    row = group * rows + start
    inside = lane < rows - start
    if CLASSES_LAST:
        at, row_stride, stride = row * NUM_CLASSES, NUM_CLASSES, 1
    else:
        at, row_stride, stride = group * rows * NUM_CLASSES + start, 1, rows
    share = tl.full((ROWS,), 1.0, tl.float32)
    if weight_ptr is not None:
        share = tl.load(weight_ptr + row + lane, mask=inside, other=0.0).to(tl.float32)
    if labels_ptr is not None:
        whole = tl.load(labels_ptr + row + lane, mask=inside, other=0)
        ignored = whole == ignore_index
        wrong = ((whole < 0) | (whole >= NUM_CLASSES)) & (ignored == 0)
        label = tl.where(ignored | wrong, 0, whole).to(tl.int32)
        if class_alpha_ptr is not None and not SMOOTHED:
            share = share * tl.load(class_alpha_ptr + label, mask=inside, other=0.0).to(tl.float32)
        none = (ignored | (share == 0)) & (wrong == 0)  # no loss and no gradient, even for NaN
    elif teacher_ptr is not None:
        none, wrong = share == 0, lane < 0  # no row is wrong
    else:
        position = tl.load(positions_ptr + row + lane, mask=inside, other=0.0).to(tl.float32)
        wrong = ((position >= 0) & (position <= NUM_CLASSES - 1)) == 0
        position = tl.where(wrong, 0.0, position)
        left_float = tl.minimum(tl.floor(position), NUM_CLASSES - 2.0)
        right_share = position - left_float
        left = left_float.to(tl.int32)
        none = (share == 0) & (wrong == 0)
    share = tl.where(wrong, float("nan"), tl.where(none, 0.0, share))

    tiles, taught = (), ()
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    taught_top = top
    for i in tl.static_range(len(WIDTHS)):
        k = FIRSTS[i] + tl.arange(0, WIDTHS[i])
        there = inside[:, None] & (k < NUM_CLASSES)[None, :]
        offset = (lane * row_stride)[:, None] + (k * stride)[None, :]
        z = tl.load(logits_ptr + at + offset, mask=there, other=0.0).to(tl.float32)
        z = tl.where((k < NUM_CLASSES)[None, :], tl.where(none[:, None], 0.0, z), float("-inf"))
        top = tl.maximum(top, tl.max(z, axis=1))
        tiles += (z,)
        if teacher_ptr is not None:
            t = tl.load(teacher_ptr + at + offset, mask=there, other=0.0).to(tl.float32)
            t = tl.where((k < NUM_CLASSES)[None, :], tl.where(none[:, None], 0.0, t), float("-inf"))
            taught_top = tl.maximum(taught_top, tl.max(t, axis=1))
            taught += (t,)

    # The maximum skips NaN; the sum does not.
    exps, taught_exps, log_ratios = (), (), ()
    others = tl.zeros((ROWS,), tl.float32)  # the sum without the label
    z_hit, z_sum, alpha_sum = others, others, 0.0
    taught_sum = others
    for i in tl.static_range(len(WIDTHS)):
        k = FIRSTS[i] + tl.arange(0, WIDTHS[i])
        z = tiles[i] - top[:, None]
        if teacher_ptr is None:
            e = tl.exp(z)
        else:
            e = tl.exp(z / temperature)
            t = taught[i] - taught_top[:, None]
            q = tl.exp(t / temperature)
            taught_exps += (q,)
            taught_sum += tl.sum(q, axis=1)
            log_ratios += ((z - t) / temperature,)
        exps += (e,)
        if labels_ptr is not None:
            hit = k[None, :] == label[:, None]
            others += tl.sum(tl.where(hit, 0.0, e), axis=1)
            z_hit += tl.sum(tl.where(hit, z, 0.0), axis=1)
            if SMOOTHED:
                alpha = class_weights(class_alpha_ptr, k, NUM_CLASSES)
                alpha_sum += tl.sum(alpha, axis=0)
                z_sum += tl.sum(tl.where((alpha != 0)[None, :], alpha[None, :] * z, 0.0), axis=1)
        elif teacher_ptr is not None:
            others += tl.sum(e, axis=1)
        else:
            bins = bin_share(k, left, right_share)
            others += tl.sum(e, axis=1)
            z_hit += tl.sum(tl.where(bins == 0, 0.0, bins * z), axis=1)

    if labels_ptr is not None:
        e_hit = tl.exp(z_hit)
        inverse = 1 / (e_hit + others)
        miss = tl.where(e_hit < others, 1 - e_hit * inverse, others * inverse)
        leads = (z_hit == 0) & (others < 1)
        log_sum = tl.where(leads, log1p_unit(others), tl.log(e_hit + others))
        a = share * power(miss, gamma, POWER)
        smoothed, at_label, whole, rest = log_sum - z_hit, -a * miss, a, 0.0
        if SMOOTHED:
            own = tl.full((ROWS,), 1.0, tl.float32)
            if class_alpha_ptr is not None:
                own = tl.load(class_alpha_ptr + label, mask=inside, other=0.0).to(tl.float32)
            rest = smoothing / NUM_CLASSES
            smoothed = (1 - smoothing) * own * smoothed + rest * (alpha_sum * log_sum - z_sum)
            whole = a * ((1 - smoothing) * own + rest * alpha_sum)
            at_label = a * rest * (alpha_sum - own) - whole * miss
        loss = a * smoothed
        slope = whole * inverse  # of the other classes, for each exp(z)
        if POWER != 0:
            few = others < TINY
            b = tl.where(few, 0.0, gamma * loss * (e_hit * inverse))
            at_label -= b
            slope += b / tl.where(few, 1.0, others)
    elif teacher_ptr is not None:
        loss, shift = tl.zeros((ROWS,), tl.float32), tl.log(taught_sum / others)
        for i in tl.static_range(len(WIDTHS)):
            p, q, r = exps[i] / others[:, None], taught_exps[i] / taught_sum[:, None], log_ratios[i] + shift[:, None]
            directly = p - q - tl.where(q == 0, 0.0, q * r)  # and not 0 times infinity
            loss += tl.sum(tl.where(tl.abs(r) < 1, q * exp_excess(r), directly), axis=1)
        share *= temperature
        loss *= share * temperature
        slope = share / others
    else:
        loss = share * (tl.log(others) - z_hit)
        slope = share / others
    factor = factor_of(scale, normalizer_ptr)
    if REDUCE:
        tl.store(loss_ptr + program, tl.sum(tl.where(inside, loss, 0.0), axis=0))
    else:
        tl.store(loss_ptr + row + lane, factor * loss, mask=inside)
    if grad_ptr is not None:
        if grad_scale_ptr is not None:
            factor = tl.load(grad_scale_ptr).to(tl.float32)
        for i in tl.static_range(len(WIDTHS)):
            k = FIRSTS[i] + tl.arange(0, WIDTHS[i])
            there = inside[:, None] & (k < NUM_CLASSES)[None, :]
            offset = (lane * row_stride)[:, None] + (k * stride)[None, :]
            grad = exps[i] * slope[:, None]
            if teacher_ptr is not None:
                grad -= taught_exps[i] * (share / taught_sum)[:, None]
            elif labels_ptr is None:
                grad -= share[:, None] * bin_share(k, left, right_share)
            else:
                if SMOOTHED:
                    grad -= (a * rest)[:, None] * class_weights(class_alpha_ptr, k, NUM_CLASSES)[None, :]
                grad = tl.where(k[None, :] == label[:, None], at_label[:, None], grad)
            tl.store(grad_ptr + at + offset, (factor * grad).to(grad_ptr.dtype.element_ty), mask=there)


def tiles_of(num_classes: int) -> tuple[int, ...]:
    """Widths of a row's tiles, powers of two; fewer than a sixteenth of the lanes have no column.

    >>> tiles_of(17), tiles_of(80), tiles_of(16), tiles_of(1203)
    ((16, 1), (64, 8, 4, 4), (8, 4, 2, 1, 1), (1024, 256))
    """
    width = 1 << (num_classes.bit_length() - 1)
    if num_classes > 512:  # hardly anything is repeated for each row
        return (width,) if width == num_classes else (width, triton.next_power_of_2(num_classes - width))
    last = max(width // 16, 1)
    before = (num_classes - 1) // last * last
    return (*(1 << i for i in reversed(range(10)) if before >> i & 1), last)


def rows_of(widths: tuple[int, ...]) -> int:
    """Rows per program, so that its first tile has 2,048 logits."""
    return min(max(2048 // widths[0], 1), 512)


def warps_of(widths: tuple[int, ...]) -> int:
    """Warps per program: at most 16 logits of the first tile per thread, as far as the number of warps allows."""
    return min(max(widths[0] // 512, 4), 32)


def registers_of(warps: int) -> int:
    """Registers per thread: as many as a multiprocessor has for one program. By default, the assembler would move a few
    into memory to fit one more program."""
    return min(2048 // warps, 255)


def launch(
    logits: Tensor,
    grad: Tensor | None,
    labels: Tensor | None,
    positions: Tensor | None,
    teacher: Tensor | None,
    weight: Tensor | None,
    class_alpha: Tensor | None,
    normalizer: Tensor | None,
    grad_scale: Tensor | None,
    gamma: float,
    label_smoothing: float,
    temperature: float,
    ignore_index: int,
    scale: float,
    reduce: bool,
) -> Tensor:
    """The loss; its derivative is written to ``grad`` if given."""
    outer, num_classes, inner = logits.shape
    if outer * inner == 0:
        return logits.new_zeros(() if reduce else (outer, inner), dtype=torch.float32)
    widths = tiles_of(num_classes)
    tile_rows, warps = rows_of(widths), warps_of(widths)
    groups, rows = (1, outer) if inner == 1 else (outer, inner)
    blocks = triton.cdiv(rows, tile_rows)
    programs = groups * blocks
    loss = torch.empty((programs,) if reduce else (outer, inner), dtype=torch.float32, device=logits.device)
    softmax_kernel[(programs,)](
        logits,
        labels,
        positions,
        teacher,
        weight,
        class_alpha,
        normalizer,
        grad_scale,
        loss,
        grad,
        rows,
        blocks,
        ignore_index,
        scale,
        gamma,
        label_smoothing,
        temperature,
        POWER=power_of(gamma),
        SMOOTHED=label_smoothing != 0,
        NUM_CLASSES=num_classes,
        CLASSES_LAST=inner == 1,
        REDUCE=reduce,
        ROWS=tile_rows,
        FIRSTS=tuple(accumulate(widths, initial=0))[:-1],
        WIDTHS=widths,
        num_warps=warps,
        **({} if torch.version.hip else {"maxnreg": registers_of(warps)}),
    )
    return total(loss, scale, normalizer) if reduce else loss
