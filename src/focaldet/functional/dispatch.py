"""Which implementation runs: the one place that decides."""

import torch
from torch import Tensor

from focaldet import kernels
from focaldet.checks import check_choice

IMPLEMENTATIONS = ("auto", "reference", "fused")

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
    if reason is None and torch._C._functorch.peek_interpreter_stack() is not None:
        reason = "inside torch.func transforms (vmap, grad) the plain formula runs"
    if reason is not None and impl == "fused":
        raise ValueError(f"impl='fused': {reason}; use impl='auto' or 'reference'")
    return reason is None
