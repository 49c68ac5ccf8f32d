"""Weights, reduction and normaliser, in one place: from one value per element to the number that is minimised."""

from numbers import Real

import torch
from torch import Tensor

from focaldet.checks import check_choice, kind_of

REDUCTIONS = ("none", "sum", "mean")


def check_reduction(reduction: str, normalizer: float | Tensor | None) -> None:
    """Raise ValueError for an unknown reduction, or for a normaliser that has no sum to divide."""
    check_choice("reduction", reduction, REDUCTIONS)
    if normalizer is not None and reduction != "sum":
        raise ValueError(f"normalizer: it divides a sum, so expected reduction='sum', got {reduction!r}")


def resolve_reduction(
    reduction: str, normalizer: float | Tensor | None, count: int | Tensor
) -> tuple[float, Tensor | None, bool]:
    """Turn ``reduction`` and ``normalizer`` into kernel arguments: scale, optional divisor, and whether to sum.

    Args:
        reduction: ``"none"``, ``"sum"``, or ``"mean"``: the sum divided by ``count``.
        normalizer: number or 0-d tensor that divides the sum: in a detector, the number of positives.
        count: number of elements in the mean. If it is 0, the sum and the mean are 0.

    >>> resolve_reduction("sum", 4, 100)
    (0.25, None, True)
    """
    check_reduction(reduction, normalizer)
    divisor = normalizer
    if reduction == "mean":
        divisor = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
    if isinstance(divisor, Tensor):
        if divisor.is_complex():
            raise TypeError(f"normalizer: expected a real number, got {divisor.dtype}")
        if divisor.numel() != 1:
            raise ValueError(f"normalizer: expected a number or a 0-d tensor, got shape {tuple(divisor.shape)}")
        return 1.0, (divisor if divisor.is_floating_point() else divisor.float()).reshape(()), reduction != "none"
    if divisor is None:
        return 1.0, None, reduction != "none"
    if not isinstance(divisor, Real | torch.SymInt | torch.SymFloat):
        raise TypeError(f"normalizer: expected a number or a 0-d tensor, got {kind_of(divisor)}")
    if not divisor > 0:
        raise ValueError(f"normalizer: expected a number > 0, got {divisor}; without positives divide by 1")
    if torch.compiler.is_compiling():  # a number would be compiled in, and this one changes with each step
        return 1.0, torch.full((), divisor, dtype=torch.float32), reduction != "none"
    return 1.0 / divisor, None, reduction != "none"


def silenced(x: Tensor, weight: Tensor | None) -> Tensor:
    """``x`` with 0 where the weight is 0, so that even NaN has no gradient there.

    >>> silenced(torch.tensor([float("nan"), 2.0]), torch.tensor([0.0, 1.0]))
    tensor([0., 2.])
    """
    return x if weight is None else torch.where(weight == 0, 0.0, x)


def weigh_and_sum(
    loss: Tensor, weight: float | Tensor | None, scale: float, normalizer: Tensor | None, reduce: bool
) -> Tensor:
    """``loss * weight * scale / normalizer``, summed when ``reduce``."""
    if weight is not None:
        weight = torch.as_tensor(weight, device=loss.device)
        # A weight of 0 silences infinity and NaN too.
        loss = torch.where(weight == 0, 0.0, loss * weight.to(loss.dtype))
    if reduce:
        loss = loss.sum()
    if scale != 1:
        loss = loss * scale
    return loss if normalizer is None else loss / normalizer.to(loss.dtype)


def reduce_loss(
    loss: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Weight (broadcast) and reduce the losses of the elements.

    >>> import torch
    >>> reduce_loss(torch.tensor([1.0, 3.0]), weight=torch.tensor([1.0, 2.0]), reduction="sum", normalizer=2)
    tensor(3.5000)
    """
    return weigh_and_sum(loss, weight, *resolve_reduction(reduction, normalizer, loss.numel()))
