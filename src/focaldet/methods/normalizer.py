"""What a loss is divided by: totals over the whole batch, on however many processes it lies."""

from torch import Tensor
from torch.distributed import ReduceOp, all_reduce, get_world_size, is_available, is_initialized


def process_count() -> int:
    """Number of processes that share a batch."""
    return get_world_size() if is_available() and is_initialized() else 1


def mean_over_processes(total: Tensor) -> Tensor:
    """The mean over processes of a number that each has of its share of the batch.

    Gradients are averaged over processes, so a process that divides its own sum by the *mean* share of the total has,
    after that average, the gradient of the whole batch's sum over the whole batch's total.

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
