"""Which implementation runs: the one place that decides."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from focaldet import kernels
from focaldet.checks import in_transform
from focaldet.functional.arguments import check_impl
from focaldet.functional.operators.boxes import paired_box_loss
from focaldet.functional.operators.sigmoid import KINDS, sigmoid_loss, sigmoid_pyramid_loss
from focaldet.functional.operators.softmax import softmax_loss

for _formula in (sigmoid_loss, sigmoid_pyramid_loss, softmax_loss, paired_box_loss):
    kernels.ops.set_formula(_formula.__name__, _formula)

_REFUSAL = re.compile(r"\w+, \S*\.(?:cpp|h):\d+, (.*)")

Maps = list[Tensor] | tuple[Tensor, ...]


def use_fused(impl: str, op: str, logits: Tensor, constants: tuple[object, ...], *, kind: str = "") -> bool:
    """Whether to run the fused kernel of ``op``.

    Args:
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        op: name of the operator.
        logits: the tensor that the loss is differentiated by.
        constants: everything else (targets, weights); the kernels have no derivative on these.
        kind: which of the operator's losses; not every device has a kernel for each.

    Raises:
        ValueError: ``impl="fused"`` where no fused kernel can run, with the reason.
    """
    check_impl(impl)
    if impl == "reference":
        return False
    reason = kernels.why_not(op, logits.device.type, logits.dtype)
    if reason is None and logits.device.type != "cpu" and kind not in ("", "giou"):
        reason = f"{kind} has a kernel only on the CPU"
    if reason is None and any(isinstance(x, Tensor) and x.requires_grad for x in constants):
        reason = "a target, weight or normalizer requires a gradient"
    if reason is None and in_transform(logits, *constants):
        reason = "inside torch.func transforms (vmap, grad) and forward-mode differentiation the plain formula runs"
    if reason is not None and impl == "fused":
        raise ValueError(f"impl='fused': {reason}; use impl='auto' or 'reference'")
    return reason is None


def in_one_launch(maps: Maps) -> bool:
    """Whether one operator sums over a pyramid: on CUDA, where launches cost time, unless a compiler schedules them."""
    if maps[0].device.type != "cuda" or torch.compiler.is_compiling() or any(x.dtype != maps[0].dtype for x in maps):
        return False
    return all(x.is_contiguous() for x in maps) or all(x.permute(0, 2, 3, 1).is_contiguous() for x in maps)


def fused_loss(op: str, inplace_grad: bool, logits: Tensor | Sequence[Tensor], *args: object) -> Tensor:
    """The loss by the fused kernel, on contiguous tensors; float64 tensors become float32.

    Args:
        op: name of the operator.
        inplace_grad: write the gradient over the logits.
        logits: tensor to differentiate by; for a whole pyramid, maps for which `in_one_launch` holds.
        args: the rest of the operator's arguments.
    """
    if isinstance(logits, Tensor) and not logits.is_contiguous():
        if inplace_grad:
            raise ValueError("inplace_grad: expected logits that are contiguous, or that have their classes moved last")
        logits = logits.contiguous()
    plain = [_plain(x) if isinstance(x, Tensor) else x for x in args]
    dtype = logits.dtype if isinstance(logits, Tensor) else logits[0].dtype
    largest = _largest_derivative(op, plain) if dtype == torch.float16 else 1.0
    try:
        return kernels.ops.run(op, logits, *plain, inplace_grad=inplace_grad, largest=largest)
    except RuntimeError as error:
        raise refusal_of(error) from None


def refusal_of(error: RuntimeError) -> Exception:
    """If a kernel rejects its arguments, the ValueError of the formula; any other error unchanged."""
    # C++ puts its source location first: "check_labels, FILE.cpp:1, labels: expected ..."
    refusal = _REFUSAL.fullmatch(str(error))
    return error if refusal is None else ValueError(refusal[1])


def _largest_derivative(op: str, args: list[Any]) -> float | Tensor:
    """A bound on an element's derivative, before scale and normaliser, for all but extreme logits."""
    if op == "paired_box_loss":  # one over the size of a box, which has no bound
        return kernels.ops.HALF_TOP
    if op == "softmax_loss":
        exponent, temperature = args[6], args[8]
        largest: float | Tensor = (1.0 + exponent) * temperature
    else:
        exponent = args[7]
        if KINDS[args[6]] == "quality_focal" and 0 < exponent < 1:
            return kernels.ops.HALF_TOP  # infinite where the probability is the target
        largest = 1.0 + exponent
    for factor in args[3:5]:  # weight and class_alpha
        if factor is not None and factor.numel():
            # The weights of ignored elements do not matter.
            size = torch.where(factor.isfinite(), factor, 0.0).abs().amax().float()
            largest = largest * torch.where(size > 0, torch.clamp(size, min=1e-30), 1.0)
    return largest


def _plain(x: Tensor) -> Tensor:
    if x.dtype not in kernels.DTYPES and x.dtype != torch.int64:
        x = x.float()
    return x.contiguous()
