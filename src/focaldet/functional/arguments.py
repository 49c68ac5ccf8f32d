"""The arguments that the losses share, checked once: kernel and formula then refuse the same in the same words."""

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from focaldet.checks import check_choice, check_floating, check_not_negative
from focaldet.structures import SparseTargets

IMPLEMENTATIONS = ("auto", "reference", "fused")

Weight = float | Tensor | None


class Call(NamedTuple):
    """How a loss is weighed, reduced and computed.

    Args:
        weight: number or tensor.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        normalizer: divides the sum.
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        inplace_grad: write the gradient over the logits.
    """

    weight: Weight
    reduction: str
    normalizer: float | Tensor | None
    impl: str = "auto"
    inplace_grad: bool = False


def exponent(name: str, value: Any) -> float:
    """An exponent >= 0 as a number.

    Raises:
        TypeError: a tensor, or no number. No kernel has exponents that are learned or differ by class.
        ValueError: negative, or NaN.
    """
    if isinstance(value, Tensor) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {_kind(value)}; it is neither learned nor given by class")
    check_not_negative(name, float(value))
    return float(value)


def positive_weight(alpha: Any) -> float | Tensor | None:
    """α of focal loss: in [0, 1], one for each class, or ``None`` for off, as any negative number is.

    Raises:
        TypeError: neither a number nor a tensor.
        ValueError: a number above 1.
    """
    if alpha is None or isinstance(alpha, Tensor):
        return alpha
    value = _number("alpha", alpha)
    if not value <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], or a negative one for off, got {value:g}")
    return None if value < 0 else value


def class_weight(alpha: Any) -> float | Tensor | None:
    """A weight >= 0 as a number, or one for each class.

    Raises:
        TypeError: neither a number nor a tensor.
        ValueError: a negative number.
    """
    if alpha is None or isinstance(alpha, Tensor):
        return alpha
    value = _number("alpha", alpha)
    check_not_negative("alpha", value)
    return value


def smoothing(value: Any) -> float:
    """ε of label smoothing as a number in [0, 1).

    Raises:
        TypeError: no number.
        ValueError: outside of it.
    """
    number = _number("label_smoothing", value)
    if not 0 <= number < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), got {number:g}")
    return number


def split_weight(weight: Weight) -> tuple[float, Tensor | None]:
    """A weight as a factor of everything, which no dtype rounds, and a tensor.

    Raises:
        TypeError: neither a number nor a tensor.
    """
    if weight is None:
        return 1.0, None
    return (1.0, weight) if isinstance(weight, Tensor) else (_number("weight", weight), None)


def float_targets(name: str, targets: Any, logits: Tensor) -> Tensor:
    """Targets as floating-point numbers; integers and truth values are taken.

    Raises:
        TypeError: not a tensor, or complex.
        ValueError: on another device.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {_kind(targets)}")
    check_device(name, targets, logits)
    if targets.is_floating_point():
        return targets
    if targets.is_complex():
        raise TypeError(f"{name}: expected real numbers, got {targets.dtype}")
    return targets.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)


def integer_labels(name: str, labels: Any, logits: Tensor) -> Tensor:
    """Labels as int64.

    Raises:
        TypeError: not a tensor of integers.
        ValueError: on another device.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name}: expected a tensor of integers, got {_kind(labels)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {labels.dtype}")
    check_device(name, labels, logits)
    return labels.long()


def sparse_targets(targets: SparseTargets, logits: Tensor) -> SparseTargets:
    """Sparse targets with int64 labels and floating-point qualities; errors as of the two above."""
    quality = targets.quality
    return SparseTargets(
        integer_labels("targets.labels", targets.labels, logits),
        None if quality is None else float_targets("targets.quality", quality, logits),
    )


def check_logits(logits: Any, name: str = "logits") -> None:
    """Raise TypeError unless they are a floating-point tensor."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {_kind(logits)}")
    check_floating(name, logits)


def check_device(name: str, x: object, logits: Tensor) -> None:
    """Raise ValueError unless a tensor is where the logits are."""
    if isinstance(x, Tensor) and x.device != logits.device:
        raise ValueError(f"{name}: on {x.device}, and the logits are on {logits.device}; move it there")


def check_impl(impl: str) -> None:
    """Raise ValueError for an unknown implementation."""
    check_choice("impl", impl, IMPLEMENTATIONS)


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number or a tensor, got {_kind(value)}")
    return float(value)


def _kind(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}" if value is not None else "None"


OPTION_CHECKS = {
    "gamma": lambda value: exponent("gamma", value),
    "beta": lambda value: exponent("beta", value),
    "label_smoothing": smoothing,
    "impl": check_impl,
}
"""Option of a loss -> what refuses a value that no call would take."""
