"""The losses on sigmoid probabilities, where each class is a binary problem."""

from functools import partial

import torch
from torch import Tensor

from focaldet.checks import check_shape, kind_of
from focaldet.functional import layout, operators
from focaldet.functional.arguments import (
    Call,
    alpha_by_class,
    by_formula,
    check_device,
    check_logits,
    class_weight,
    exponent,
    float_tensor,
    positive_weight,
    share,
    sparse_targets,
    split_weight,
)
from focaldet.functional.dispatch import Maps, fused_loss, in_one_launch, use_fused
from focaldet.losses import generalized_focal, quadratic
from focaldet.losses.numerics import widen
from focaldet.losses.reduce import resolve_reduction
from focaldet.structures import IGNORED, SparseTargets

Targets = Tensor | SparseTargets


def sigmoid_focal_loss(
    inputs: Tensor | Maps,
    targets: Targets,
    alpha: float | Tensor | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    weight: float | Tensor | None = None,
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Focal loss of RetinaNet: ``-α_t (1 - p_t)^γ log p_t``.

    Names, order, defaults and the meaning of soft targets are the same as in ``torchvision.ops.sigmoid_focal_loss``;
    its calls work here unchanged. The minimum of this loss is **not** at a soft target: with γ = 2 and a target of .7
    it is at a probability of .878. For soft labels use `quality_focal_loss`.

    Args:
        inputs: logits ``(..., C)``, or the maps ``(B, A * C, H, W)`` of a pyramid, in either memory format.
        targets: floats of the logits' shape, or `SparseTargets` with labels ``(...)`` (pyramid: ``(B, P)``).
        alpha: weight of the positives (the negatives have ``1 - alpha``), a number or one per class ``(C,)``; ``None``,
            or a negative number as in torchvision, switches it off.
        gamma: focusing exponent, any number >= 0; 0 is (α-balanced) binary cross entropy.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        weight: broadcast against the logits.
        normalizer: divides the sum.
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        inplace_grad: let the fused kernel write the gradient over the logits, which saves all extra memory; the
            logits are lost and only one backward is possible.

    Returns:
        A 0-d tensor, or the losses in the logits' shape (pyramid: ``(B, P, C)``).

    Example:
        >>> from focaldet import SparseTargets
        >>> logits = torch.zeros(3, 2, requires_grad=True)
        >>> labels = torch.tensor([1, -1, -2])  # class 1, background, ignored
        >>> sigmoid_focal_loss(logits, SparseTargets(labels), reduction="sum", normalizer=1)
        tensor(0.4332, grad_fn=...)
    """
    call = Call(weight, reduction, normalizer, impl, inplace_grad)
    return _sigmoid_family("focal", inputs, targets, exponent("gamma", gamma), positive_weight(alpha), call)


def binary_cross_entropy(
    logits: Tensor | Maps,
    targets: Targets,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Binary cross entropy on logits: ``-(y log σ + (1 - y) log(1 - σ))``. Arguments as in `sigmoid_focal_loss`.

    Example:
        >>> binary_cross_entropy(torch.zeros(2), torch.tensor([0.0, 1.0]), reduction="mean")
        tensor(0.6931)
    """
    call = Call(weight, reduction, normalizer, impl, inplace_grad)
    return _sigmoid_family("binary_cross_entropy", logits, targets, 0.0, None, call)


def quality_focal_loss(
    logits: Tensor | Maps,
    targets: Targets,
    *,
    beta: float = 2.0,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Quality focal loss of GFL: ``|y - σ|^β BCE(σ, y)``, zero at ``σ = y``. Arguments as in `sigmoid_focal_loss`.

    Example:
        >>> from focaldet import SparseTargets
        >>> targets = SparseTargets(torch.tensor([0, -1]), quality=torch.tensor([0.5, 0.0]))
        >>> quality_focal_loss(torch.zeros(2, 1), targets)
        tensor([[0.0000],
                [0.1733]])
    """
    call = Call(weight, reduction, normalizer, impl, inplace_grad)
    return _sigmoid_family("quality_focal", logits, targets, exponent("beta", beta), None, call)


def varifocal_loss(
    logits: Tensor | Maps,
    targets: Targets,
    *,
    alpha: float | Tensor | None = 0.75,
    gamma: float = 2.0,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Varifocal loss: ``y BCE(σ, y)`` for positives, ``α σ^γ BCE(σ, 0)`` for negatives.

    Here ``alpha`` weights the *negatives*. Other arguments as in `sigmoid_focal_loss`.

    Example:
        >>> varifocal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([0.6931, 0.1300])
    """
    call = Call(weight, reduction, normalizer, impl, inplace_grad)
    return _sigmoid_family("varifocal", logits, targets, exponent("gamma", gamma), class_weight(alpha), call)


def matchability_aware_loss(
    logits: Tensor | Maps,
    targets: Targets,
    *,
    gamma: float = 1.5,
    alpha: float | Tensor | None = None,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """Matchability-aware loss (MAL) of DEIM: ``BCE(σ, y^γ)`` for positives, ``σ^γ BCE(σ, 0)`` for negatives.

    No gradient flows through ``σ^γ``; ``alpha`` is a further weight of the negatives. Other arguments as in
    `sigmoid_focal_loss`.

    Example:
        >>> matchability_aware_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([0.6931, 0.2451])
    """
    call = Call(weight, reduction, normalizer, impl, inplace_grad)
    return _sigmoid_family("matchability_aware", logits, targets, exponent("gamma", gamma), class_weight(alpha), call)


def iou_aware_bce_loss(
    logits: Tensor | Maps,
    targets: Targets,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    """IoU-aware BCE (IA-BCE) of Align-DETR: ``BCE(σ, t)`` for positives, ``σ^γ BCE(σ, 0)`` for negatives.

    The target is ``t = max(σ^α y^(1-α), .01)``, through which no gradient flows: ``alpha`` is a share in [0, 1], not a
    weight. Other arguments as in `sigmoid_focal_loss`.

    Example:
        >>> iou_aware_bce_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([0.6931, 0.1733])
    """
    call = Call(weight, reduction, normalizer, impl, inplace_grad)
    return _sigmoid_family("iou_aware_bce", logits, targets, exponent("gamma", gamma), share("alpha", alpha), call)


def quadratic_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Quadratic cost of a sigmoid neuron: ``(y - σ)² / 2``. For comparison only; there is no kernel.

    Example:
        >>> quadratic_loss(torch.tensor([0.0]), torch.tensor([1.0]))
        tensor([0.1250])
    """
    check_logits(logits)
    targets = float_tensor("targets", targets, logits)
    check_shape("targets", targets, tuple(logits.shape))
    call = by_formula(weight, reduction, normalizer, logits.shape, logits)
    return call.reduce(quadratic.quadratic_loss(call.silence(widen(logits)), call.silence(targets)))


def generalized_focal_loss(
    log_probs_left: Tensor,
    log_probs_right: Tensor,
    targets: Tensor,
    *,
    beta: float = 2.0,
    left: float | Tensor = 0.0,
    right: float | Tensor = 1.0,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """The general form of the focal losses: ``-|y - (y_l p_l + y_r p_r)|^β ((y_r - y) log p_l + (y - y_l) log p_r)``.

    Focal loss without α, quality focal and distribution focal loss are cases of it (see
    `focaldet.losses.generalized_focal`); their own functions are faster.

    Example:
        >>> log_half = torch.tensor([0.5]).log()
        >>> generalized_focal_loss(log_half, log_half, torch.tensor([1.0]))
        tensor([0.1733])
    """
    check_logits(log_probs_left, "log_probs_left")
    check_logits(log_probs_right, "log_probs_right")
    targets = float_tensor("targets", targets, log_probs_left)
    for name, x in (("log_probs_right", log_probs_right), ("targets", targets)):
        check_shape(name, x, tuple(log_probs_left.shape))
    beta = exponent("beta", beta)
    call = by_formula(weight, reduction, normalizer, targets.shape, log_probs_left)
    log_left, log_right, y = (call.silence(x) for x in (widen(log_probs_left), widen(log_probs_right), targets))
    return call.reduce(
        generalized_focal.generalized_focal_loss(log_left, log_right, y, beta=beta, left=left, right=right)
    )


def _sigmoid_family(
    kind: str,
    logits: Tensor | Maps,
    targets: Targets,
    gamma: float,
    alpha: float | Tensor | None,
    call: Call,
) -> Tensor:
    maps = [logits] if isinstance(logits, Tensor) else logits
    if not isinstance(maps, list | tuple) or not maps:
        raise TypeError(f"logits: expected a tensor, or at least one map of a pyramid, got {kind_of(logits)}")
    for x in maps:
        check_logits(x)
        check_device("logits", x, maps[0])
        if x.dtype != maps[0].dtype:
            raise ValueError(f"logits: expected maps of one dtype, got {maps[0].dtype} and {x.dtype}")
    if isinstance(targets, SparseTargets):
        targets = sparse_targets(targets, maps[0])
    else:
        targets = float_tensor("targets", targets, maps[0])
    factor, weight = split_weight(call.weight, maps[0])
    check_device("normalizer", call.normalizer, maps[0])
    constants: tuple[Tensor | None, ...]
    if isinstance(logits, Tensor):
        part = layout.tensor_part(logits, targets, weight)
        num_classes, constants = part.logits.shape[1], part[1:]
    else:
        pyramid = layout.see_pyramid(logits, targets, weight)
        num_classes, constants = pyramid.num_classes, (pyramid.labels, pyramid.quality, None, pyramid.weight)
    count: int | Tensor = maps[0].numel()
    if isinstance(targets, SparseTargets):
        count = (targets.labels != IGNORED).sum() * num_classes if call.reduction == "mean" else 0
    scale, divisor, reduce = resolve_reduction(call.reduction, call.normalizer, count)
    class_alpha = alpha_by_class(alpha, num_classes, maps[0]) if isinstance(alpha, Tensor) else None
    alpha = None if isinstance(alpha, Tensor) else alpha
    numbers = (operators.sigmoid.KINDS.index(kind), gamma, alpha, factor * scale, reduce)
    fused = use_fused(call.impl, "sigmoid_loss", maps[0], (class_alpha, divisor, *constants))
    if fused and reduce and not isinstance(logits, Tensor) and in_one_launch(logits):
        pyramid_loss = partial(fused_loss, "sigmoid_pyramid_loss", call.inplace_grad)
        return pyramid_loss(logits, *constants, class_alpha, divisor, *numbers)
    parts = [part] if isinstance(logits, Tensor) else layout.pyramid_parts(pyramid)
    run = partial(fused_loss, "sigmoid_loss", call.inplace_grad) if fused else operators.sigmoid.sigmoid_loss
    results = [run(*part, class_alpha, divisor, *numbers) for part in parts]
    if reduce:
        return results[0] if len(results) == 1 else torch.stack(results).sum()
    if isinstance(logits, Tensor):
        return layout.unsee_rows(results[0], logits.shape)
    return torch.cat([layout.unsee_map(x, m) for x, m in zip(results, maps, strict=True)], dim=1)
