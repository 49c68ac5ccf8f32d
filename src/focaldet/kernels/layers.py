"""Shared by the kernels of layers: the condition for their use, the order of maps, and derivatives without them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from focaldet.checks import in_transform
from focaldet.kernels import available


def applies(maps: Sequence[Tensor], *weights: Tensor | None) -> bool:
    """Whether the C++ kernels can take these tensors: on the CPU, and neither traced, compiled nor transformed.

    Args:
        maps: must be plain tensors, not fake ones.
        weights: parameters of the layer; ``None`` for one that it does not have.
    """
    tensors = [*maps, *(weight for weight in weights if weight is not None)]
    return (
        all(x.device.type == "cpu" for x in tensors)
        and all(type(x) is Tensor for x in maps)
        and not torch.compiler.is_compiling()
        and not in_transform(*tensors)
        and available()["cpu"] is None
    )


def channels_last(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` as ``(B, H, W, C)``, contiguous; a map in channels-last order is not copied."""
    return x.permute(0, 2, 3, 1).contiguous()


def backward_by_torch(
    formula: Callable[[], Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Tensor | Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Derivatives of a formula in plain torch, which can be differentiated again if grad is enabled.

    Args:
        formula: computes the outputs from the inputs.
        inputs: what may need a derivative.
        needed: which inputs need one.
        grads: derivatives of the outputs.
    """
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need and x is not None]
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = formula()
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=differentiable))
    return tuple(next(found) if need else None for need in needed)
