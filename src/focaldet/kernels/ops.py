"""The operators: schemas, shapes for tracing, and derivatives.

Each takes what the function of the same name in ``focaldet.losses`` takes, ``grad_scale`` and ``needs_grad``; it
returns the loss and, when wanted, its derivative, which backward only has to multiply. ``<name>_inplace`` writes the
derivative over the logits.

The derivative is stored in the logits' dtype, times scale / normalizer. float16 cannot hold that: divided by many
positives the background's is 0, and a loss scale comes only in backward. It gets a ``grad_scale`` instead, so large
that the derivative keeps its digits, and backward multiplies by scale / normalizer / grad_scale in float32.

``suppress_by_class`` stands apart: non-maximum suppression.

Second derivatives come from the plain formula: `set_formula` hands it in, since this folder does not know the losses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from focaldet.checks import in_transform

_ARGUMENTS = {
    "sigmoid_loss": "Tensor? labels, Tensor? quality, Tensor? targets, Tensor? weight, Tensor? class_alpha, "
    "Tensor? normalizer, Tensor? grad_scale, int kind, float gamma, float? alpha, float scale, bool reduce",
    "softmax_loss": "Tensor? labels, Tensor? positions, Tensor? weight, Tensor? class_alpha, Tensor? normalizer, "
    "Tensor? grad_scale, float gamma, float label_smoothing, int ignore_index, float scale, bool reduce",
    "paired_giou_loss": "Tensor target_boxes, Tensor? weight, Tensor? normalizer, Tensor? grad_scale, float scale, "
    "bool reduce",
}
NAMES = tuple(_ARGUMENTS)
_GRAD_SCALE = {op: [a.split()[-1] for a in text.split(", ")].index("grad_scale") for op, text in _ARGUMENTS.items()}
"""Place of ``grad_scale`` among the arguments; the normaliser stands before it."""

HALF_TOP = 2.0**14
"""float16 ends at 65,504. Below it lie 28 powers of two in which it has all its digits."""

LIBRARY: Any = torch.library.Library("focaldet", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define("suppress_by_class(Tensor boxes, Tensor scores, Tensor labels, float iou, int most) -> Tensor")
_formulas: dict[str, Callable[..., Tensor]] = {}


def set_formula(op: str, formula: Callable[..., Tensor]) -> None:
    """Give the differentiable formula of ``op``, with the same arguments but for ``needs_grad``."""
    _formulas[op] = formula


def _fake_loss(op: str, logits: Tensor, reduce: bool) -> Tensor:
    shape = logits.shape
    if op == "softmax_loss":
        shape = logits.shape[:1] + logits.shape[2:]
    elif op == "paired_giou_loss":
        shape = logits.shape[:1]
    return logits.new_empty(() if reduce else shape, dtype=torch.float32)


def _define(op: str) -> None:
    arguments = _ARGUMENTS[op]
    LIBRARY.define(f"{op}(Tensor logits, {arguments}, bool needs_grad) -> (Tensor, Tensor)")
    LIBRARY.define(f"{op}_inplace(Tensor(a!) logits, {arguments}) -> Tensor")

    def fake(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        *_, reduce, needs_grad = args
        return _fake_loss(op, logits, reduce), logits.new_empty(logits.shape if needs_grad else (0,))

    def fake_inplace(logits: Tensor, *args: Any) -> Tensor:
        return _fake_loss(op, logits, args[-1])

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, *args, needs_grad = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        _save(ctx, op, logits, output[1] if needs_grad else None, args)

    def backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        return _gradient(ctx, grad_loss), *(None,) * (len(ctx.numbers) + 1)

    torch.library.register_fake(f"focaldet::{op}", fake, lib=LIBRARY)
    torch.library.register_fake(f"focaldet::{op}_inplace", fake_inplace, lib=LIBRARY)
    torch.library.register_autograd(f"focaldet::{op}", backward, setup_context=setup_context, lib=LIBRARY)


def _save(ctx: Any, op: str, logits: Tensor, grad: Tensor | None, args: Any) -> None:
    """Keep what `_gradient` needs: the derivative, and for a second one, what the formula takes."""
    ctx.op = op
    ctx.tensors_at = [i for i, x in enumerate(args) if isinstance(x, Tensor)]
    ctx.numbers = [None if isinstance(x, Tensor) else x for x in args]
    ctx.save_for_backward(logits, grad, *(args[i] for i in ctx.tensors_at))


def _gradient(ctx: Any, grad_loss: Tensor | None, *, hidden: bool = False) -> Tensor | None:
    """The gradient of the logits.

    Args:
        hidden: nobody else has the stored derivative; as an output of an operator it is the caller's too.
    """
    if grad_loss is None:
        return None
    logits, grad, *tensors = ctx.saved_tensors
    args = list(ctx.numbers)
    for i, tensor in zip(ctx.tensors_at, tensors, strict=True):
        args[i] = tensor
    if not torch.is_grad_enabled():
        return _times(grad, grad_loss * _remaining(ctx.op, args), in_place=hidden)
    del args[_GRAD_SCALE[ctx.op]]  # a derivative of this derivative will be asked for
    loss = _formulas[ctx.op](logits, *args)
    result: Tensor
    (result,) = torch.autograd.grad(loss, logits, grad_loss.to(loss.dtype), create_graph=True)
    return result


def _remaining(op: str, args: Sequence[Any]) -> float | Tensor:
    """What a stored derivative has still to be multiplied by, beside the gradient of the loss."""
    place = _GRAD_SCALE[op]
    normalizer, grad_scale, scale = args[place - 1], args[place], args[-2]
    if grad_scale is None:
        return 1.0
    remaining: Tensor = scale / grad_scale if normalizer is None else scale / normalizer / grad_scale
    return remaining


def is_plain(x: Tensor) -> bool:
    """Whether a tensor is no more than numbers: neither of a trace nor a batch of ``vmap``."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or in_transform():
        return False
    try:
        return x.device.type != "cpu" or x.numel() == 0 or x[(0,) * x.ndim].item() is not None
    except RuntimeError:  # a batch of autograd's own vmap (is_grads_batched) has no first number
        return False


def _times(grad: Tensor, factor: Tensor, *, in_place: bool) -> Tensor:
    """``grad * factor``, computed in float32; over the stored derivative where no other backward will need it."""
    if not in_place or not is_plain(factor) or torch._C._autograd._get_current_graph_task_keep_graph():
        return (grad.float() * _over_classes(factor, grad)).to(grad.dtype)
    _multiply(grad, factor)
    return grad


def _multiply(grad: Tensor, factor: Tensor) -> None:
    """``grad *= factor`` without rounding the factor to the derivative's dtype."""
    if factor.ndim == 0 and factor.device.type == "cpu" and float(factor) == 1.0:
        return  # looking costs nothing there
    if grad.dtype != torch.float32 and (factor.ndim or grad.device.type != "cpu"):
        grad.copy_(grad.float() * _over_classes(factor, grad))
    else:
        grad.mul_(_over_classes(factor, grad))  # the CPU multiplies by a number in float32


def _over_classes(grad_loss: Tensor, grad: Tensor) -> Tensor:
    """One number for each row, (O, I) or (N,), so that it multiplies logits (O, K, I) or boxes (N, 4)."""
    return grad_loss if grad_loss.ndim in (0, grad.ndim) else grad_loss.unsqueeze(1)


class _OnePass(torch.autograd.Function):
    """The operator and its derivative without the detour of `torch.library`'s Python autograd, for eager mode, where
    that detour is most of what a small input costs."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, op: str, args: tuple[Any, ...]) -> Tensor:
        loss: Tensor
        loss, grad = _operators[op](logits, *args, True)
        _save(ctx, op, logits, grad, args)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, None, None]:
        return _gradient(ctx, grad_loss, hidden=True), None, None


class _InplaceGrad(torch.autograd.Function):
    """A loss whose derivative stands where its logits stood."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, op: str, args: tuple[Any, ...]) -> Tensor:
        place = logits.detach()
        loss: Tensor = _operators[f"{op}_inplace"](place, *args)
        torch.autograd.graph.increment_version(place)  # so that autograd objects where it still needs the logits
        ctx.grad, ctx.remaining = place, _remaining(op, args)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, None, None]:
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            raise RuntimeError("inplace_grad: only one backward is possible; use inplace_grad=False for another")
        _multiply(grad, grad_loss * ctx.remaining)
        return grad, None, None


def run(op: str, logits: Tensor, *args: Any, inplace_grad: bool, largest: float | Tensor) -> Tensor:
    """The loss, by the fused kernel.

    ``inplace_grad`` counts where there is a gradient to write and no compiler, which plans memory by itself.

    Args:
        op: name of the operator.
        logits: what the loss is differentiated by.
        args: the rest of the operator's arguments, without ``grad_scale`` and ``needs_grad``.
        inplace_grad: write the derivative over the logits.
        largest: about how large a derivative can be; only float16 asks.
    """
    needs_grad = torch.is_grad_enabled() and logits.requires_grad
    grad_scale = None
    if needs_grad and logits.dtype == torch.float16:
        scale = torch.as_tensor(HALF_TOP / largest, dtype=torch.float32, device=logits.device)
        grad_scale = torch.exp2(torch.floor(torch.log2(scale)))  # a power of two costs no digit
    args = (*args[: _GRAD_SCALE[op]], grad_scale, *args[_GRAD_SCALE[op] :])
    result: Tensor
    if needs_grad and not torch.compiler.is_compiling():
        result = (_InplaceGrad if inplace_grad else _OnePass).apply(logits, op, args)
    else:
        result = _operators[op](logits, *args, needs_grad)[0]
    return result


for _op in NAMES:
    _define(_op)

suppress_by_class: Any = torch.ops.focaldet.suppress_by_class.default
"""Indices of the boxes that no better one of their class overlaps by more, best first; C++ alone."""

_operators: dict[str, Any] = {
    name: getattr(torch.ops.focaldet, name).default for op in NAMES for name in (op, f"{op}_inplace")
}
