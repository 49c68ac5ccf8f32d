"""Which implementation runs: the one place that decides."""

import torch
from torch import Tensor

from focaldet import kernels
from focaldet.checks import check_choice
from focaldet.losses.box_family import paired_giou_loss
from focaldet.losses.sigmoid_family import sigmoid_loss
from focaldet.losses.softmax_family import softmax_loss

IMPLEMENTATIONS = ("auto", "reference", "fused")

for _formula in (sigmoid_loss, softmax_loss, paired_giou_loss):
    kernels.ops.set_formula(_formula.__name__, _formula)

Maps = list[Tensor] | tuple[Tensor, ...]


def use_fused(impl: str, op: str, logits: Tensor, constants: tuple[object, ...]) -> bool:
    """Whether the fused kernel of ``op`` is to run.

    Args:
        impl: ``"auto"``, ``"reference"`` or ``"fused"``.
        op: name of the operator.
        logits: what the loss is differentiated by.
        constants: everything else (targets, weights); the kernels have no derivative on these.

    Raises:
        ValueError: ``impl="fused"`` where no fused kernel can run, with the reason.
    """
    check_choice("impl", impl, IMPLEMENTATIONS)
    if impl == "reference":
        return False
    reason = kernels.why_not(op, logits.device.type, logits.dtype)
    if reason is None and any(isinstance(x, Tensor) and x.requires_grad for x in constants):
        reason = "a target, weight or normalizer requires a gradient"
    transformed = not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
    if reason is None and transformed:
        reason = "inside torch.func transforms (vmap, grad) the plain formula runs"
    if reason is not None and impl == "fused":
        raise ValueError(f"impl='fused': {reason}; use impl='auto' or 'reference'")
    return reason is None


def fused_loss(op: str, inplace_grad: bool, logits: Tensor, *args: object) -> Tensor:
    """The loss by the fused kernel, whose tensors are contiguous; those that are float64 become float32.

    Args:
        op: name of the operator.
        inplace_grad: write the gradient over the logits.
        logits: what the loss is differentiated by.
        args: the rest of the operator's arguments.
    """
    if not logits.is_contiguous():
        if inplace_grad:
            raise ValueError("inplace_grad: expected logits that are contiguous, or that have their classes moved last")
        logits = logits.contiguous()
    plain = [_plain(x) if isinstance(x, Tensor) else x for x in args]
    return kernels.ops.run(op, logits, *plain, inplace_grad=inplace_grad)


def _plain(x: Tensor) -> Tensor:
    if x.dtype not in kernels.DTYPES and x.dtype != torch.int64:
        x = x.float()
    return x.contiguous()
