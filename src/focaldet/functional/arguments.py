"""Checks of the arguments that the losses share, so that kernel and formula raise the same errors."""

import math
from numbers import Real
from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor

from focaldet.checks import check_broadcasts, check_choice, check_floating, check_not_negative, kind_of
from focaldet.losses.reduce import reduce_loss, silenced, weigh_and_sum
from focaldet.structures import SparseTargets

IMPLEMENTATIONS = ("auto", "reference", "fused")

Weight = float | Tensor | None


class Call(NamedTuple):
    """How a loss is weighted, reduced and computed.

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
        TypeError: not a number. Kernels support neither learned exponents nor one per class.
        ValueError: negative, infinite or NaN.
    """
    if isinstance(value, Tensor) or not isinstance(value, Real):
        raise TypeError(
            f"{name}: expected a number, got {kind_of(value)}; it can be neither learned nor given per class"
        )
    check_not_negative(name, float(value))
    if value == math.inf:
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return float(value)


def positive_weight(alpha: Any) -> float | Tensor | None:
    """α of focal loss: in [0, 1] or one per class; ``None`` and any negative number switch it off.

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
    """A weight >= 0: a number, or one per class.

    Raises:
        TypeError: neither a number nor a tensor.
        ValueError: a negative number.
    """
    if alpha is None or isinstance(alpha, Tensor):
        return alpha
    value = _number("alpha", alpha)
    check_not_negative("alpha", value)
    return value


def share(name: str, value: Any) -> float:
    """A share as a number in [0, 1].

    Raises:
        TypeError: not a number.
        ValueError: outside [0, 1].
    """
    number = _number(name, value, "a number")
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {number:g}")
    return number


def positive(name: str, value: Any) -> float:
    """A finite number > 0.

    Raises:
        TypeError: not a number.
        ValueError: not finite, or not above 0.
    """
    number = _number(name, value, "a number")
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a finite number > 0, got {number:g}")
    return number


def smoothing(value: Any) -> float:
    """ε of label smoothing as a number in [0, 1).

    Raises:
        TypeError: not a number.
        ValueError: outside [0, 1).
    """
    number = _number("label_smoothing", value, "a number")
    if not 0 <= number < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), got {number:g}")
    return number


def split_weight(weight: Any, logits: Tensor) -> tuple[float, Tensor | None]:
    """Split a weight into a Python number, which no dtype rounds, and a floating-point tensor.

    Raises:
        TypeError: neither a number nor a tensor of real numbers.
        ValueError: on another device.
    """
    if weight is None:
        return 1.0, None
    if isinstance(weight, Tensor):
        return 1.0, float_tensor("weight", weight, logits)
    factor = _number("weight", weight)
    # A tensor of 0 silences infinity and NaN; the number 0 must do the same.
    return (factor, None) if factor else (1.0, torch.zeros((), dtype=torch.float32, device=logits.device))


def alpha_by_class(alpha: Tensor, num_classes: int, logits: Tensor) -> Tensor:
    """α of each class as floating-point numbers ``(C,)``.

    Raises:
        TypeError: complex numbers.
        ValueError: on another device, or not one per class.
    """
    alpha = float_tensor("alpha", alpha, logits)
    if alpha.ndim > 1 or alpha.numel() not in (1, num_classes):
        raise ValueError(f"alpha: expected one for each of {num_classes} classes, got shape {tuple(alpha.shape)}")
    return alpha.expand(num_classes)


class ByFormula(NamedTuple):
    """How to weight and reduce a loss without a kernel."""

    factor: float
    weight: Tensor | None
    reduction: str
    normalizer: float | Tensor | None

    def silence(self, x: Tensor, *, rows: bool = False) -> Tensor:
        """``x`` with 0 where the weight is 0; with ``rows``, each weight applies to a whole row."""
        return silenced(x, self.weight.unsqueeze(-1) if rows and self.weight is not None else self.weight)

    def reduce(self, loss: Tensor) -> Tensor:
        loss = weigh_and_sum(loss, self.weight, self.factor, None, False)
        return reduce_loss(loss, reduction=self.reduction, normalizer=self.normalizer)


def by_formula(
    weight: Any, reduction: str, normalizer: float | Tensor | None, shape: torch.Size, logits: Tensor
) -> ByFormula:
    """Check the weight and the normaliser for losses of this shape. Raises the errors of `split_weight`."""
    factor, weight = split_weight(weight, logits)
    check_device("normalizer", normalizer, logits)
    if weight is not None:
        check_broadcasts("weight", weight, tuple(shape))
    return ByFormula(factor, weight, reduction, normalizer)


def whole_number(name: str, value: Any) -> int:
    """A whole number from Python, NumPy or a 0-d tensor.

    Raises:
        TypeError: not a whole number.
    """
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {kind_of(value)}") from None


def float_tensor(name: str, x: Any, logits: Tensor) -> Tensor:
    """A tensor as floating-point numbers; integers and booleans are converted.

    Raises:
        TypeError: not a tensor, or complex.
        ValueError: on another device.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {kind_of(x)}")
    check_device(name, x, logits)
    if x.is_floating_point():
        return x
    if x.is_complex():
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    return x.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)


def integer_labels(name: str, labels: Any, logits: Tensor) -> Tensor:
    """Labels as int64.

    Raises:
        TypeError: not a tensor of integers.
        ValueError: on another device.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name}: expected a tensor of integers, got {kind_of(labels)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {labels.dtype}")
    check_device(name, labels, logits)
    return labels.long()


def sparse_targets(targets: SparseTargets, logits: Tensor) -> SparseTargets:
    """Sparse targets with int64 labels and floating-point qualities. Raises the errors of the two functions above."""
    quality = targets.quality
    return SparseTargets(
        integer_labels("targets.labels", targets.labels, logits),
        None if quality is None else float_tensor("targets.quality", quality, logits),
    )


def check_logits(logits: Any, name: str = "logits") -> None:
    """Raise TypeError unless the logits are a floating-point tensor."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {kind_of(logits)}")
    check_floating(name, logits)


def check_rows(logits: Any, entry: str, least: int) -> None:
    """Raise TypeError unless the logits are floating-point, ValueError for rows of fewer than ``least`` entries."""
    check_logits(logits)
    if logits.ndim == 0 or logits.shape[-1] < least:
        raise ValueError(
            f"logits: expected rows of at least {least} {entry}{'s' * (least > 1)}, got shape {tuple(logits.shape)}"
        )


def check_device(name: str, x: object, logits: Tensor) -> None:
    """Raise ValueError if a tensor is on another device than the logits."""
    if isinstance(x, Tensor) and x.device != logits.device:
        raise ValueError(f"{name}: on {x.device}, and the logits are on {logits.device}; move it there")


def check_impl(impl: str) -> None:
    """Raise ValueError for an unknown implementation."""
    check_choice("impl", impl, IMPLEMENTATIONS)


def _number(name: str, value: Any, expected: str = "a number or a tensor") -> float:
    if isinstance(value, Tensor) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {kind_of(value)}")
    return float(value)


OPTION_CHECKS = {
    "gamma": lambda value: exponent("gamma", value),
    "beta": lambda value: exponent("beta", value),
    "label_smoothing": smoothing,
    "temperature": lambda value: positive("temperature", value),
    "impl": check_impl,
}
"""Option of a loss -> function that raises an error for a value that every call would reject."""
