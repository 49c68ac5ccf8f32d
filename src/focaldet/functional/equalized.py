"""The equalized losses: focal losses with exponents that depend on what each class has learned so far."""

from typing import Any

import torch
from torch import Tensor

from focaldet import kernels
from focaldet.checks import check_shape, in_transform
from focaldet.functional import layout, operators
from focaldet.functional.arguments import (
    check_device,
    check_impl,
    check_logits,
    exponent,
    float_tensor,
    positive_weight,
    sparse_targets,
)
from focaldet.functional.dispatch import Maps, refusal_of
from focaldet.losses.equalized import class_exponents, equalized_loss, sums_by_class
from focaldet.losses.numerics import widen
from focaldet.losses.reduce import resolve_reduction
from focaldet.losses.sparse import check_labels, dense_targets
from focaldet.structures import SparseTargets


def equalized_focal_loss(
    logits: Tensor | Maps,
    targets: SparseTargets,
    gradients: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    scale: float = 8.0,
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Equalized focal loss (EFL), summed: focal loss with one exponent γ per class, times ``γ / gamma``.

    γ is ``gamma + scale (1 - g)``. g is the ratio of the positives' gradient to the negatives' for this class so far in
    training, at most 1. After each step, add the returned sums to ``gradients``.

    Args:
        logits: ``(..., C)``, or the maps ``(B, A * C, H, W)`` of a pyramid, in either memory format.
        targets: labels ``(...)`` (pyramid: ``(B, P)``).
        gradients: ``(2, C)``, sums of the absolute derivatives so far: of the positives, of the negatives. With zeros,
            training starts with the plain focal loss.
        alpha: weight of the positives (the negatives have ``1 - alpha``); ``None`` switches it off.
        gamma: exponent of a balanced class, > 0.
        scale: added to the exponent of a class without any positive gradient.
        normalizer: divides the sum.
        impl: ``"auto"``, ``"reference"`` or ``"fused"`` (CPU only, no second derivatives).

    Returns:
        The loss, 0-d, and the sums of this batch, ``(2, C)`` float64 (float32 where the device has no float64).

    Example:
        >>> gradients = torch.tensor([[1.0, 1.0], [1.0, 4.0]])  # the second class is rare
        >>> loss, sums = equalized_focal_loss(torch.zeros(3, 2), SparseTargets(torch.tensor([0, -1, 1])), gradients)
        >>> loss, gradients + sums
        (tensor(0.3222), tensor([[1.0746, 1.0128],
                [1.4474, 4.0767]], dtype=torch.float64))
    """
    weight = positive_weight(alpha)
    if isinstance(weight, Tensor):
        raise TypeError("alpha: expected one number, got a tensor; the exponents balance the classes here")
    return _equalized("focal", logits, targets, gradients, weight, gamma, scale, normalizer, impl)


def equalized_quality_loss(
    logits: Tensor | Maps,
    targets: SparseTargets,
    gradients: Tensor,
    *,
    beta: float = 2.0,
    scale: float = 8.0,
    normalizer: float | Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Equalized quality focal loss (EQFL), summed: `quality_focal_loss` with one exponent per class.

    Arguments and results as in `equalized_focal_loss`; ``beta`` is the exponent of a balanced class.

    Example:
        >>> targets = SparseTargets(torch.tensor([0, -1]), quality=torch.tensor([0.5, 0.0]))
        >>> equalized_quality_loss(torch.zeros(2, 1), targets, torch.zeros(2, 1))[0]
        tensor(0.1733)
    """
    return _equalized("quality_focal", logits, targets, gradients, None, beta, scale, normalizer, impl)


def _equalized(
    kind: str,
    logits: Tensor | Maps,
    targets: SparseTargets,
    gradients: Tensor,
    alpha: float | None,
    gamma: float,
    scale: float,
    normalizer: float | Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor]:
    maps = [logits] if isinstance(logits, Tensor) else logits
    for x in maps:
        check_logits(x)
    if not isinstance(targets, SparseTargets):
        raise TypeError("targets: expected SparseTargets; the sums need to know which entries are positive")
    targets = sparse_targets(targets, maps[0])
    check_device("normalizer", normalizer, maps[0])
    gradients = float_tensor("gradients", gradients, maps[0]).detach()
    if isinstance(logits, Tensor):
        parts = [layout.tensor_part(logits, targets, None)]
    else:
        parts = layout.pyramid_parts(layout.see_pyramid(logits, targets, None))
    check_shape("gradients", gradients, (2, parts[0].logits.shape[1]))
    gamma, scale = exponent("gamma", gamma), exponent("scale", scale)
    if gamma == 0:
        raise ValueError("gamma: expected a number > 0; the weight of a class is its exponent over this one")
    factor, divisor, _ = resolve_reduction("sum", normalizer, 0)
    gammas = class_exponents(gradients, gamma=gamma, scale=scale)
    if _use_fused(impl, maps, (targets.quality, divisor)):
        number = operators.sigmoid.KINDS.index(kind)
        own = (gammas.float(), (gammas / gamma).float(), _plain(divisor), number, alpha, factor)
        results = [_by_kernel(part, *own) for part in parts]
    else:
        whole = factor if divisor is None else factor / divisor
        results = [_by_formula(kind, part, gammas, gamma, alpha, whole) for part in parts]
    losses, sums = zip(*results, strict=True)
    return torch.stack(losses).sum(), torch.stack(sums).sum(0)


def _use_fused(impl: str, maps: Maps, constants: tuple[Tensor | None, ...]) -> bool:
    check_impl(impl)
    if impl == "reference":
        return False
    reason = kernels.why_not("sigmoid_loss", maps[0].device.type, maps[0].dtype)
    if reason is None and maps[0].device.type != "cpu":
        reason = "equalized losses have a kernel only on the CPU"
    if reason is None and any(x is not None and x.requires_grad for x in constants):
        reason = "a target or normalizer requires a gradient"
    if reason is None and (in_transform(*maps) or torch.compiler.is_compiling()):
        reason = "inside torch.func transforms and torch.compile the plain formula runs"
    if reason is not None and impl == "fused":
        raise ValueError(f"impl='fused': {reason}; use impl='auto' or 'reference'")
    return reason is None


def _by_kernel(part: layout.Part, *args: Any) -> tuple[Tensor, Tensor]:
    assert part.labels is not None
    logits, labels, quality = part.logits.contiguous(), part.labels.contiguous(), _plain(part.quality)
    try:
        return kernels.ops.run_equalized(logits, labels, quality, *args)
    except RuntimeError as error:
        raise refusal_of(error) from None


def _plain(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _by_formula(
    kind: str, part: layout.Part, gammas: Tensor, gamma: float, alpha: float | None, factor: float | Tensor
) -> tuple[Tensor, Tensor]:
    z, labels = widen(part.logits.movedim(1, -1)), part.labels
    assert labels is not None
    check_labels(labels, z.shape[-1])
    y, ignored = dense_targets(SparseTargets(labels, part.quality), z.shape[-1], z.dtype)
    z = z.masked_fill(ignored, 0.0)
    positive = labels.unsqueeze(-1) == torch.arange(z.shape[-1], device=z.device)

    def loss_of(logits: Tensor) -> Tensor:
        exponents = gammas.to(logits.dtype)
        quality = kind == "quality_focal"
        each = equalized_loss(logits, y, exponents=exponents, gamma=gamma, alpha=alpha, quality=quality)
        # Multiply before the sum: in forward mode, a number widens the dtype of a 0-d tensor.
        return (factor * each.masked_fill(ignored, 0.0)).sum()

    derivative = torch.func.grad(loss_of)(z.detach())
    sums = sums_by_class(derivative.reshape(-1, z.shape[-1]), positive.reshape(-1, z.shape[-1]))
    return loss_of(z), sums
