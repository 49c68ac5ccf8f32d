"""Pass a batch from a loader worker to the training process without copying it, and without a file for each tensor.

torch moves every tensor from a worker into its own shared memory. That copies the images, and for each small tensor
takes a file, a socket and two system calls per side, which cost more than augmenting a photo.
"""

from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

SMALL = 1 << 15
"""Largest number of bytes of a tensor sent by value: half a pipe's capacity."""


def sendable(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor that is sent without a copy: in shared memory, if this process is a worker."""
    if get_worker_info() is None:
        return torch.empty(tuple(shape), dtype=dtype)
    numel = torch.Size(shape).numel()
    storage = torch.UntypedStorage._new_shared(numel * dtype.itemsize)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload, no-any-return]


def send_small_tensors_by_value() -> None:
    """Let this worker send small tensors as bytes."""
    ForkingPickler.register(Tensor, _reduce)


def _reduce(tensor: Tensor) -> Any:
    if tensor.requires_grad or tensor.numel() * tensor.itemsize > SMALL:
        return reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    return torch.from_numpy, (tensor.numpy(),)
