"""The losses on softmax probabilities: one class, or one position on a scale, for each row."""

from functools import partial

import torch
from torch import Tensor

from focaldet.checks import check_floating, check_not_negative, check_shape
from focaldet.functional.dispatch import fused_loss, use_fused
from focaldet.losses import layout, softmax_family
from focaldet.losses.cross_entropy import soft_cross_entropy
from focaldet.losses.numerics import widen
from focaldet.losses.reduce import reduce_loss, resolve_reduction


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float | Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Categorical cross entropy: ``-α_t log softmax(z)_t``.

    Arguments as in `softmax_focal_loss`; ``labels`` may also be a distribution over the classes, floats ``(..., C)``
    (the plain formula then runs, without α and ``ignore_index``).

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([2, -100]), reduction="mean")
        tensor(1.3863)
    """
    if labels.is_floating_point():
        check_shape("labels (floats: a distribution)", labels, tuple(logits.shape))
        loss = soft_cross_entropy(widen(logits), labels, label_smoothing=label_smoothing)
        return reduce_loss(loss, weight=weight, reduction=reduction, normalizer=normalizer)
    return softmax_focal_loss(
        logits,
        labels,
        gamma=0.0,
        alpha=alpha,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        weight=weight,
        reduction=reduction,
        normalizer=normalizer,
        impl=impl,
        inplace_grad=inplace_grad,
    )


def softmax_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Focal loss over a softmax: ``-α_t (1 - p_t)^γ log p_t``.

    Args:
        logits: ``(..., C)``; the classes are the last axis.
        labels: ``(...)`` integers in ``[0, C)`` or ``ignore_index``.
        gamma: focusing exponent, any number >= 0; 0 is cross entropy.
        alpha: weight of each class ``(C,)``, a number for all, or ``None`` for 1.
        label_smoothing: ε in ``[0, 1]``; the factor ``α_t (1 - p_t)^γ`` stands before the smoothed cross entropy.
        ignore_index: label of the rows without loss.
        weight: broadcast against the rows.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``: over the rows that are not ignored, whatever α.
        normalizer: divides the sum, for instance by the number of foreground rows.
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        inplace_grad: let the fused kernel write the gradient over the logits.

    Returns:
        A 0-d tensor, or ``(...)``.

    Example:
        >>> softmax_focal_loss(torch.zeros(1, 2), torch.tensor([1]))  # .5² log 2
        tensor([0.1733])
    """
    check_not_negative("gamma", gamma)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {label_smoothing}")
    if labels.is_floating_point():
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    if alpha is not None and not isinstance(alpha, Tensor):
        weight = alpha if weight is None else weight * alpha
        alpha = None
    return _softmax_family(
        logits, labels.long(), None, gamma, alpha, label_smoothing, ignore_index, weight, reduction, normalizer,
        impl, inplace_grad,
    )  # fmt: skip


def distribution_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Distribution focal loss of GFL: cross entropy with the two bins around the target.

    Args:
        logits: ``(..., K)``, a distribution over the bins 0 .. K-1.
        targets: ``(...)`` in ``[0, K - 1]``, both ends included, in bins. Outside of it is an error on the CPU.
        weight: broadcast against ``targets``.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        normalizer: divides the sum.
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        inplace_grad: let the fused kernel write the gradient over the logits.

    Returns:
        A 0-d tensor, or ``(...)``.

    Example:
        >>> distribution_focal_loss(torch.zeros(2, 4), torch.tensor([0.5, 3.0]))
        tensor([1.3863, 1.3863])
    """
    check_floating("targets", targets)
    if logits.shape[-1] < 2:
        raise ValueError(f"logits: expected at least 2 bins, got shape {tuple(logits.shape)}")
    return _softmax_family(logits, None, targets, 0.0, None, 0.0, 0, weight, reduction, normalizer, impl, inplace_grad)


def _softmax_family(
    logits: Tensor,
    labels: Tensor | None,
    positions: Tensor | None,
    gamma: float,
    alpha: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    weight: float | Tensor | None,
    reduction: str,
    normalizer: float | Tensor | None,
    impl: str,
    inplace_grad: bool,
) -> Tensor:
    check_floating("logits", logits)
    shape = tuple(logits.shape[:-1])
    values = labels if labels is not None else positions
    assert values is not None
    check_shape("labels" if positions is None else "targets", values, shape)
    seen, _ = layout.see_rows(logits)
    outer, num_classes, inner = seen.shape
    count: int | Tensor = values.numel()
    if labels is not None:
        count = (labels != ignore_index).sum() if reduction == "mean" else 0
    scale, divisor, reduce = resolve_reduction(reduction, normalizer, count)
    if weight is not None:
        weight = weight if isinstance(weight, Tensor) else logits.new_full((), weight, dtype=torch.float32)
        weight = weight.expand(shape).reshape(outer, inner)
    class_alpha = None if alpha is None else alpha.expand(num_classes)
    fused = use_fused(impl, "softmax_loss", logits, (positions, weight, class_alpha, divisor))
    run = partial(fused_loss, "softmax_loss", inplace_grad) if fused else softmax_family.softmax_loss
    loss = run(
        seen,
        None if labels is None else labels.reshape(outer, inner),
        None if positions is None else positions.reshape(outer, inner),
        weight,
        class_alpha,
        divisor,
        float(gamma),
        label_smoothing,
        ignore_index,
        scale,
        reduce,
    )
    return loss if reduce else loss.reshape(shape)
