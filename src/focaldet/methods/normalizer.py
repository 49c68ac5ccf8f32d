"""Loss normalisers: totals over the whole batch, across all processes."""

from torch import Tensor
from torch.distributed import ReduceOp, all_reduce, get_world_size, is_available, is_initialized


def process_count() -> int:
    """Number of processes that share a batch."""
    return get_world_size() if is_available() and is_initialized() else 1


def mean_over_processes(total: Tensor) -> Tensor:
    """Mean of a number over all processes.

    Gradients are averaged over processes. If each process divides its own sum by the *mean* of the totals, the averaged
    gradient is that of the whole batch's sum divided by the whole batch's total.

    >>> import torch
    >>> mean_over_processes(torch.tensor(3.0))
    tensor(3.)
    """
    processes = process_count()
    if processes == 1:
        return total
    total = total.clone()
    all_reduce(total, op=ReduceOp.SUM)
    return total / processes
