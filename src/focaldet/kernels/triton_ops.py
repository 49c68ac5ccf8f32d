"""The Triton kernels behind the operators of `focaldet.kernels.ops`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from focaldet.kernels import triton_giou, triton_sigmoid, triton_softmax

LAUNCHERS: dict[str, Callable[..., Tensor]] = {
    "sigmoid_loss": triton_sigmoid.launch,
    "softmax_loss": triton_softmax.launch,
    "paired_giou_loss": triton_giou.launch,
}


def loss_and_grad(op: str, logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """The operator: its last argument is ``needs_grad``."""
    *rest, needs_grad = args
    grad = torch.empty_like(logits) if needs_grad else None
    loss = LAUNCHERS[op](logits, grad, *rest)
    return loss, logits.new_empty(0) if grad is None else grad


def loss_in_place(op: str, logits: Tensor, *args: Any) -> Tensor:
    """The operator that writes the derivative over the logits."""
    return LAUNCHERS[op](logits, logits, *args)


def register(library: Any) -> None:
    """Put the kernels behind the operators for CUDA."""
    for op in LAUNCHERS:
        library.impl(op, lambda *args, op=op: loss_and_grad(op, *args), "CUDA")
        library.impl(f"{op}_inplace", lambda *args, op=op: loss_in_place(op, *args), "CUDA")
