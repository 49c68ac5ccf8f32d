"""Convert sparse targets to the dense tensors that they represent, for the plain formulas."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from focaldet.checks import in_transform
from focaldet.structures import BACKGROUND, IGNORED, SparseTargets


def check_labels(labels: Integer[Tensor, "..."], num_classes: int, lowest: int = IGNORED) -> None:
    """Raise ValueError when a label is outside ``[lowest, num_classes)``.

    It checks only on the CPU, where reading a value does not stall, and not while a graph is being traced. Elsewhere an
    out-of-range label traps in the indexing that follows.
    """
    if not _readable(labels):
        return
    low, high = (int(x) for x in torch.aminmax(labels))
    if low < lowest or high >= num_classes:
        wrong = low if low < lowest else high
        raise ValueError(f"labels: expected {lowest} .. {num_classes - 1} for {num_classes} classes, got {wrong}")


def _readable(x: Tensor) -> bool:
    """Whether values can be read without a stall: on the CPU, outside a trace and ``torch.func``."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.numel() > 0
    traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return plain and not traced and not in_transform(x)


def check_positions(positions: Float[Tensor, "..."], num_bins: int) -> None:
    """Raise ValueError when a position is outside ``[0, num_bins - 1]``; checks only where `check_labels` does."""
    if not _readable(positions):
        return
    low, high = (float(x) for x in torch.aminmax(positions))
    if not (low >= 0 and high <= num_bins - 1):
        wrong = high if low >= 0 else low
        raise ValueError(f"targets: expected 0 .. {num_bins - 1} for {num_bins} bins, got {wrong}")


def dense_targets(
    targets: SparseTargets, num_classes: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "... C"], Bool[Tensor, "... 1"]]:
    """The dense targets and a mask of the ignored rows.

    >>> dense_targets(SparseTargets(torch.tensor([1, -1, -2]), torch.tensor([0.5, 0, 0])), 2, torch.float32)
    (tensor([[0.0000, 0.5000],
            [0.0000, 0.0000],
            [0.0000, 0.0000]]), tensor([[False],
            [False],
            [ True]]))
    """
    labels = targets.labels.long().unsqueeze(-1)
    is_class = labels >= 0
    value = torch.ones_like(labels, dtype=dtype) if targets.quality is None else targets.quality.to(dtype).unsqueeze(-1)
    # Background and ignored rows write a 0 into class 0; any other negative label indexes out of range and traps.
    outside = (labels != BACKGROUND) & (labels != IGNORED) & ~is_class
    index = torch.where(outside, num_classes, labels.clamp(min=0))
    dense = torch.zeros(*targets.labels.shape, num_classes, dtype=dtype, device=labels.device)
    return dense.scatter(-1, index, torch.where(is_class, value, 0.0)), labels == IGNORED
