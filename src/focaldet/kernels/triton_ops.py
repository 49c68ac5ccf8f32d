"""The Triton kernels behind the operators of `focaldet.kernels.ops`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from focaldet.kernels import triton_giou, triton_parts, triton_sigmoid, triton_softmax

LAUNCHERS: dict[str, Callable[..., Tensor]] = {
    "sigmoid_loss": triton_sigmoid.launch,
    "softmax_loss": triton_softmax.launch,
    "paired_box_loss": triton_giou.launch,
}

device_of: Any = torch.cuda.device_of
"""Context in which a tensor's device is the current one, as Triton requires; does nothing on the CPU."""


def loss_and_grad(op: str, logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """The operator: its last argument is ``needs_grad``."""
    *rest, needs_grad = args
    with device_of(logits):
        grad = torch.empty_like(logits) if needs_grad else None
        loss = LAUNCHERS[op](logits, grad, *rest)
        return loss, logits.new_empty(0) if grad is None else grad


def loss_in_place(op: str, logits: Tensor, *args: Any) -> Tensor:
    """The operator that writes the derivative over the logits."""
    with device_of(logits):
        return LAUNCHERS[op](logits, logits, *args)


def pyramid_loss(maps: Sequence[Tensor], *args: Any) -> tuple[Tensor, list[Tensor]]:
    """The sigmoid loss of a pyramid, and the derivatives of its maps; the last argument is ``needs_grad``."""
    *rest, needs_grad = args
    with device_of(maps[0]):
        grads = [torch.empty_like(x) for x in maps] if needs_grad else None
        return triton_sigmoid.launch_pyramid(maps, grads, *rest), grads or []


def pyramid_loss_in_place(maps: Sequence[Tensor], *args: Any) -> Tensor:
    """The pyramid operator that writes the derivatives over the maps."""
    with device_of(maps[0]):
        return triton_sigmoid.launch_pyramid(maps, maps, *args)


def multiply(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply all tensors by a 0-d factor, in place."""
    with device_of(factor):
        triton_parts.multiply(tensors, factor)


def register(library: Any) -> None:
    """Register the kernels as the CUDA implementations of the operators."""
    for op in LAUNCHERS:
        library.impl(op, lambda *args, op=op: loss_and_grad(op, *args), "CUDA")
        library.impl(f"{op}_inplace", lambda *args, op=op: loss_in_place(op, *args), "CUDA")
    library.impl("sigmoid_pyramid_loss", pyramid_loss, "CUDA")
    library.impl("sigmoid_pyramid_loss_inplace", pyramid_loss_in_place, "CUDA")
    library.impl("multiply_", multiply, "CUDA")
