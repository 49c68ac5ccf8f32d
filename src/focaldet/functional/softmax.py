"""The losses on softmax probabilities: for each row one class, one position on a scale, or the logits of a teacher."""

from functools import partial

from torch import Tensor

from focaldet.checks import check_broadcasts, check_shape
from focaldet.functional import layout, operators
from focaldet.functional.arguments import (
    Call,
    alpha_by_class,
    by_formula,
    check_device,
    check_impl,
    check_rows,
    class_weight,
    exponent,
    float_tensor,
    integer_labels,
    positive,
    smoothing,
    split_weight,
    whole_number,
)
from focaldet.functional.dispatch import fused_loss, use_fused
from focaldet.losses.cross_entropy import soft_cross_entropy
from focaldet.losses.numerics import widen
from focaldet.losses.reduce import resolve_reduction


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

    Arguments as in `softmax_focal_loss`; ``labels`` may also be a distribution over the classes, floats ``(..., C)``.
    Then the plain formula runs, and each class counts with its α, as in ``torch.nn.functional.cross_entropy``.

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([2, -100]), reduction="mean")
        tensor(1.3863)
    """
    if isinstance(labels, Tensor) and labels.is_floating_point():
        check_rows(logits, "class", 1)
        check_device("labels", labels, logits)
        check_shape("labels (floats: a distribution)", labels, tuple(logits.shape))
        check_impl(impl)
        given = {"impl='fused'": impl == "fused", "inplace_grad": inplace_grad, "ignore_index": ignore_index != -100}
        for name, is_given in given.items():
            if is_given:
                raise ValueError(f"{name}: there is none for labels that are distributions; leave it out")
        share = class_weight(alpha)
        if isinstance(share, Tensor):
            share = alpha_by_class(share, logits.shape[-1], logits)
        call = by_formula(weight, reduction, normalizer, logits.shape[:-1], logits)
        wide = call.silence(widen(logits), rows=True)
        return call.reduce(soft_cross_entropy(wide, labels, alpha=share, label_smoothing=smoothing(label_smoothing)))
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
        label_smoothing: ε in ``[0, 1)``: the target is ``1 - ε`` on the label plus ``ε / C`` on every class, and each
            class counts with its α. The factor ``(1 - p_t)^γ`` multiplies the whole sum.
        ignore_index: label of the rows without loss.
        weight: broadcast against the rows.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``: over the rows that are not ignored, regardless of α.
        normalizer: divides the sum, for instance by the number of foreground rows.
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        inplace_grad: let the fused kernel write the gradient over the logits.

    Returns:
        A 0-d tensor, or ``(...)``.

    Example:
        >>> import torch
        >>> softmax_focal_loss(torch.zeros(1, 2), torch.tensor([1]))  # .5² log 2
        tensor([0.1733])
    """
    check_rows(logits, "class", 1)
    labels = integer_labels("labels", labels, logits)
    share = class_weight(alpha)
    factor = 1.0 if share is None or isinstance(share, Tensor) else share
    return _softmax_family(
        logits,
        Call(weight, reduction, normalizer, impl, inplace_grad),
        labels=labels,
        gamma=exponent("gamma", gamma),
        alpha=share if isinstance(share, Tensor) else None,
        label_smoothing=smoothing(label_smoothing),
        ignore_index=whole_number("ignore_index", ignore_index),
        factor=factor,
    )


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
        targets: ``(...)`` in ``[0, K - 1]``, both ends included, in bins. Values outside are an error on the CPU.
        weight: broadcast against ``targets``.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        normalizer: divides the sum.
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        inplace_grad: let the fused kernel write the gradient over the logits.

    Returns:
        A 0-d tensor, or ``(...)``.

    Example:
        >>> import torch
        >>> distribution_focal_loss(torch.zeros(2, 4), torch.tensor([0.5, 3.0]))
        tensor([1.3863, 1.3863])
    """
    check_rows(logits, "bin", 2)
    targets = float_tensor("targets", targets, logits)
    return _softmax_family(logits, Call(weight, reduction, normalizer, impl, inplace_grad), positions=targets)


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 10.0,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Distillation: ``T² KL(P ‖ S)``, ``P = softmax(teacher / T)`` and ``S = softmax(z / T)``.

    Args:
        logits: ``(..., K)``, classes or bins.
        teacher_logits: the same shape; no gradient flows to them.
        temperature: T, a number > 0. The higher it is, the more the small probabilities matter.
        weight: broadcast against the rows.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        normalizer: divides the sum.
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        inplace_grad: let the fused kernel write the gradient over the logits.

    Returns:
        A 0-d tensor, or ``(...)``.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), temperature=1.0)
        tensor([0.1109])
    """
    check_rows(logits, "class", 1)
    teacher_logits = float_tensor("teacher_logits", teacher_logits, logits).detach()
    check_shape("teacher_logits", teacher_logits, tuple(logits.shape))
    return _softmax_family(
        logits,
        Call(weight, reduction, normalizer, impl, inplace_grad),
        teacher=teacher_logits,
        temperature=positive("temperature", temperature),
    )


def _softmax_family(
    logits: Tensor,
    call: Call,
    *,
    labels: Tensor | None = None,
    positions: Tensor | None = None,
    teacher: Tensor | None = None,
    gamma: float = 0.0,
    alpha: Tensor | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    ignore_index: int = 0,
    factor: float = 1.0,
) -> Tensor:
    """The loss of ``labels``, ``positions`` or a ``teacher``; exactly one of them is given."""
    shape = tuple(logits.shape[:-1])
    if labels is not None:
        check_shape("labels", labels, shape)
    if positions is not None:
        check_shape("targets", positions, shape)
    seen, classes_first = layout.see_rows(logits)
    outer, num_classes, inner = seen.shape
    if teacher is not None:
        teacher = (teacher.movedim(-1, 1) if classes_first else teacher).reshape(seen.shape)
    count: int | Tensor = outer * inner
    if labels is not None:
        count = (labels != ignore_index).sum() if call.reduction == "mean" else 0
    scale, divisor, reduce = resolve_reduction(call.reduction, call.normalizer, count)
    share, weight = split_weight(call.weight, logits)
    check_device("normalizer", call.normalizer, logits)
    if weight is not None:
        check_broadcasts("weight", weight, shape)
        weight = weight.expand(shape).reshape(outer, inner)
    class_alpha = None if alpha is None else alpha_by_class(alpha, num_classes, logits)
    constants = (positions, teacher, weight, class_alpha, divisor)
    fused = use_fused(call.impl, "softmax_loss", logits, constants)
    run = partial(fused_loss, "softmax_loss", call.inplace_grad) if fused else operators.softmax.softmax_loss
    loss = run(
        seen,
        None if labels is None else labels.reshape(outer, inner),
        None if positions is None else positions.reshape(outer, inner),
        teacher,
        weight,
        class_alpha,
        divisor,
        gamma,
        label_smoothing,
        temperature,
        ignore_index,
        factor * share * scale,
        reduce,
    )
    return loss if reduce else loss.reshape(shape)
