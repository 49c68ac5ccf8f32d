"""The operators: schemas, shapes for tracing, and derivatives.

Each has the arguments of the function of the same name in ``focaldet.functional.operators``, ``grad_scale`` and
``needs_grad``. It returns the loss and, if requested, its derivative, which backward only has to multiply.
``<name>_inplace`` writes the derivative over the logits.

The derivative is stored in the logits' dtype, times scale / normalizer. float16 is too narrow for that: divided by many
positives, the background's derivative becomes 0, and a loss scale arrives only in backward. Instead, float16 gets a
``grad_scale`` large enough for the derivative to keep its digits, and backward multiplies by scale / normalizer /
grad_scale in float32.

``sigmoid_pyramid_loss`` is ``sigmoid_loss`` summed over a list of maps. It exists only on CUDA, where each launch costs
time.

``suppress_by_class`` and ``recolour`` are not losses: non-maximum suppression, and a change of a photo's colours.
``equalized_loss``, only in C++, is a sum that also returns the sums of its derivative by class.

Second derivatives come from the plain formula. `set_formula` registers it, since this folder must not import the
losses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from focaldet.checks import in_transform

_ARGUMENTS = {
    "sigmoid_loss": "Tensor? labels, Tensor? quality, Tensor? targets, Tensor? weight, Tensor? class_alpha, "
    "Tensor? normalizer, Tensor? grad_scale, int kind, float gamma, float? alpha, float scale, bool reduce",
    "softmax_loss": "Tensor? labels, Tensor? positions, Tensor? teacher, Tensor? weight, Tensor? class_alpha, "
    "Tensor? normalizer, Tensor? grad_scale, float gamma, float label_smoothing, float temperature, int ignore_index, "
    "float scale, bool reduce",
    "paired_box_loss": "Tensor target_boxes, Tensor? weight, Tensor? normalizer, Tensor? grad_scale, int kind, "
    "float scale, bool reduce",
}
NAMES = tuple(_ARGUMENTS)
PYRAMID = "sigmoid_pyramid_loss"
_ARGUMENTS[PYRAMID] = _ARGUMENTS["sigmoid_loss"]
_GRAD_SCALE = {op: [a.split()[-1] for a in text.split(", ")].index("grad_scale") for op, text in _ARGUMENTS.items()}
"""Index of ``grad_scale`` among the arguments; the normaliser comes just before it."""

HALF_TOP = 2.0**14
"""Largest scaled derivative in float16, which ends at 65,504 and has full precision over the 28 powers of two below."""

LIBRARY: Any = torch.library.Library("focaldet", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define("multiply_(Tensor(a!)[] tensors, Tensor factor) -> ()")
LIBRARY.define("suppress_by_class(Tensor boxes, Tensor scores, Tensor labels, float iou, int most) -> Tensor")
LIBRARY.define("recolour(Tensor image, Tensor matrix, float share, bool left_right, bool upside_down) -> Tensor")
LIBRARY.define(
    "equalized_loss(Tensor logits, Tensor labels, Tensor? quality, Tensor gammas, Tensor weights, Tensor? normalizer, "
    "Tensor? grad_scale, int kind, float? alpha, float scale, bool needs_sums) -> (Tensor, Tensor, Tensor)"
)
_formulas: dict[str, Callable[..., Tensor]] = {}


def set_formula(op: str, formula: Callable[..., Tensor]) -> None:
    """Register the differentiable formula of ``op``; it has the same arguments except ``needs_grad``."""
    _formulas[op] = formula


def _fake_loss(op: str, logits: Tensor, reduce: bool) -> Tensor:
    shape = logits.shape
    if op == "softmax_loss":
        shape = logits.shape[:1] + logits.shape[2:]
    elif op == "paired_box_loss":
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
        _save(ctx, op, (logits,), (output[1] if needs_grad else None,), args)

    def backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, grad_loss), *(None,) * (len(ctx.numbers) + 1)

    torch.library.register_fake(f"focaldet::{op}", fake, lib=LIBRARY)
    torch.library.register_fake(f"focaldet::{op}_inplace", fake_inplace, lib=LIBRARY)
    torch.library.register_autograd(f"focaldet::{op}", backward, setup_context=setup_context, lib=LIBRARY)


def _define_pyramid() -> None:
    """This operator has no derivative: a compiler sees one operator per map."""
    arguments = _ARGUMENTS[PYRAMID]
    LIBRARY.define(f"{PYRAMID}(Tensor[] maps, {arguments}, bool needs_grad) -> (Tensor, Tensor[])")
    LIBRARY.define(f"{PYRAMID}_inplace(Tensor(a!)[] maps, {arguments}) -> Tensor")


def _save(ctx: Any, op: str, logits: Sequence[Tensor], grads: Sequence[Tensor | None], args: Any) -> None:
    """Save what `_gradients` needs: the derivatives and, for second derivatives, the arguments of the formula."""
    ctx.op = op
    ctx.tensors_at = [i for i, x in enumerate(args) if isinstance(x, Tensor)]
    ctx.numbers = [None if isinstance(x, Tensor) else x for x in args]
    ctx.save_for_backward(*logits, *grads, *(args[i] for i in ctx.tensors_at))


def _gradients(ctx: Any, grad_loss: Tensor | None, *, hidden: bool = False) -> Sequence[Tensor | None]:
    """The gradient of the logits, or of each map of a pyramid.

    Args:
        hidden: the stored derivative is private. As an output of an operator, the caller could use it too.
    """
    args = list(ctx.numbers)
    saved = ctx.saved_tensors
    count = (len(saved) - len(ctx.tensors_at)) // 2
    logits, grads, tensors = saved[:count], saved[count : 2 * count], saved[2 * count :]
    if grad_loss is None:
        return (None,) * count
    for i, tensor in zip(ctx.tensors_at, tensors, strict=True):
        args[i] = tensor
    if not torch.is_grad_enabled():
        return _times(grads, _whole_factor(grad_loss, ctx.op, args), in_place=hidden)
    del args[_GRAD_SCALE[ctx.op]]  # a second derivative is needed
    loss = _formulas[ctx.op](logits if ctx.op == PYRAMID else logits[0], *args)
    second: tuple[Tensor, ...] = torch.autograd.grad(loss, logits, grad_loss.to(loss.dtype), create_graph=True)
    return second


def _whole_factor(grad_loss: Tensor, op: str, args: Sequence[Any]) -> Tensor:
    """Factor by which a stored derivative must still be multiplied."""
    remaining = _remaining(op, args)
    return grad_loss if remaining is None else grad_loss * remaining


def _remaining(op: str, args: Sequence[Any]) -> Tensor | None:
    """The factor of a stored derivative without the gradient of the loss; ``None`` for 1."""
    place = _GRAD_SCALE[op]
    return _remaining_factor(args[place - 1], args[place], args[-2])


def _remaining_factor(normalizer: Tensor | None, grad_scale: Tensor | None, scale: float) -> Tensor | None:
    if grad_scale is None:
        return None
    remaining: Tensor = scale / grad_scale if normalizer is None else scale / normalizer.float() / grad_scale
    return remaining


def is_plain(x: Tensor) -> bool:
    """Whether a tensor holds plain numbers: it is neither traced nor batched by ``vmap``."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or in_transform():
        return False
    try:
        return x.device.type != "cpu" or x.numel() == 0 or x[(0,) * x.ndim].item() is not None
    except RuntimeError:  # a batch of autograd's own vmap (is_grads_batched) has no first number
        return False


def _times(grads: Sequence[Tensor], factor: Tensor, *, in_place: bool) -> Sequence[Tensor]:
    """``grads * factor``, computed in float32; in place if no other backward will need the stored derivatives."""
    if not in_place or not is_plain(factor) or torch._C._autograd._get_current_graph_task_keep_graph():
        return [(grad.float() * _over_classes(factor, grad)).to(grad.dtype) for grad in grads]
    _multiply(grads, factor)
    return grads


def _multiply(grads: Sequence[Tensor], factor: Tensor) -> None:
    """``grads *= factor`` without rounding the factor to the derivatives' dtype."""
    if factor.ndim == 0 and factor.device.type != "cpu":
        torch.ops.focaldet.multiply_(
            grads, factor
        )  # the kernel checks whether it is 1; checking here would wait for the device
        return
    if factor.ndim == 0 and float(factor) == 1.0:
        return  # on the CPU, reading the value costs nothing
    for grad in grads:
        if grad.dtype != torch.float32 and factor.ndim:
            grad.copy_(grad.float() * _over_classes(factor, grad))
        else:
            grad.mul_(_over_classes(factor, grad))  # the CPU multiplies by a number in float32


def _over_classes(grad_loss: Tensor, grad: Tensor) -> Tensor:
    """One number per row, (O, I) or (N,), reshaped to multiply logits (O, K, I) or boxes (N, 4)."""
    return grad_loss if grad_loss.ndim in (0, grad.ndim) else grad_loss.unsqueeze(1)


class _OnePass(torch.autograd.Function):
    """The operator and its derivative without `torch.library`'s Python autograd: in eager mode, that overhead dominates
    the cost of a small input."""

    @staticmethod
    def forward(ctx: Any, op: str, args: tuple[Any, ...], *logits: Tensor) -> Tensor:
        loss: Tensor
        if op == PYRAMID:
            loss, grads = _operators[op](logits, *args, True)
        else:
            loss, *grads = _operators[op](*logits, *args, True)
        _save(ctx, op, logits, grads, args)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *_gradients(ctx, grad_loss, hidden=True)


class _InplaceGrad(torch.autograd.Function):
    """A loss whose derivative has replaced its logits in memory."""

    @staticmethod
    def forward(ctx: Any, op: str, args: tuple[Any, ...], *logits: Tensor) -> Tensor:
        places = [x.detach() for x in logits]
        loss: Tensor = _operators[f"{op}_inplace"](places if op == PYRAMID else places[0], *args)
        for place in places:
            torch.autograd.graph.increment_version(place)  # autograd raises an error if it still needs the logits
        ctx.grads, ctx.remaining = places, _remaining(op, args)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("inplace_grad: only one backward is possible; use inplace_grad=False for another")
        _multiply(grads, grad_loss if ctx.remaining is None else grad_loss * ctx.remaining)
        return None, None, *grads


def _fake_equalized(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    sums = (2, logits.shape[1]) if args[-1] else (0,)
    loss = logits.new_empty((), dtype=torch.float32)
    return loss, torch.empty_like(logits), logits.new_empty(sums, dtype=torch.float64)


torch.library.register_fake("focaldet::equalized_loss", _fake_equalized, lib=LIBRARY)


class _Equalized(torch.autograd.Function):
    """The equalized loss, and the sums of its derivative."""

    @staticmethod
    def forward(ctx: Any, args: tuple[Any, ...], logits: Tensor) -> tuple[Tensor, Tensor]:
        loss, grad, sums = torch.ops.focaldet.equalized_loss(logits, *args, True)
        normalizer, grad_scale, _, _, scale = args[-5:]
        ctx.grads = [grad]
        ctx.remaining = _remaining_factor(normalizer, grad_scale, scale)
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_loss if ctx.remaining is None else grad_loss * ctx.remaining
        return None, *_times(ctx.grads, factor, in_place=True)


def run_equalized(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor | None,
    gammas: Tensor,
    weights: Tensor,
    normalizer: Tensor | None,
    kind: int,
    alpha: float | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The equalized loss of contiguous logits ``(O, C, I)`` on the CPU, and the sums ``(2, C)`` of its derivative."""
    grad_scale = None
    if logits.dtype == torch.float16:
        largest = (1 + gammas.amax()) * weights.amax()
        grad_scale = torch.exp2(torch.floor(torch.log2(HALF_TOP / largest))).float()
    args = (labels, quality, gammas, weights, normalizer, grad_scale, kind, alpha, scale)
    result: tuple[Tensor, Tensor] = _Equalized.apply(args, logits)
    return result


def run(op: str, logits: Tensor | Sequence[Tensor], *args: Any, inplace_grad: bool, largest: float | Tensor) -> Tensor:
    """The loss, by the fused kernel.

    ``inplace_grad`` has an effect only in eager mode with a gradient to write; a compiler plans memory by itself.

    Args:
        op: name of the operator.
        logits: the tensor that the loss is differentiated by; a list for the pyramid operator.
        args: the rest of the operator's arguments, without ``grad_scale`` and ``needs_grad``.
        inplace_grad: write the derivative over the logits.
        largest: approximate upper bound of the derivative, used only for float16.
    """
    tensors = (logits,) if isinstance(logits, Tensor) else tuple(logits)
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    grad_scale = None
    if needs_grad and tensors[0].dtype == torch.float16:
        scale = torch.as_tensor(HALF_TOP / largest, dtype=torch.float32, device=tensors[0].device)
        grad_scale = torch.exp2(torch.floor(torch.log2(scale)))  # a power of two costs no digit
    args = (*args[: _GRAD_SCALE[op]], grad_scale, *args[_GRAD_SCALE[op] :])
    result: Tensor
    if needs_grad and not torch.compiler.is_compiling():
        result = (_InplaceGrad if inplace_grad else _OnePass).apply(op, args, *tensors)
    else:
        result = _operators[op](logits, *args, needs_grad)[0]
    return result


for _op in NAMES:
    _define(_op)
_define_pyramid()

suppress_by_class: Any = torch.ops.focaldet.suppress_by_class.default
"""Indices of the boxes that survive non-maximum suppression within their class, best first. Only in C++."""

_operators: dict[str, Any] = {
    name: getattr(torch.ops.focaldet, name).default for op in _ARGUMENTS for name in (op, f"{op}_inplace")
}
