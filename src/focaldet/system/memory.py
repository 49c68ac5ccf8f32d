"""The most memory that a process has had."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_memory_mb(device: "torch.device") -> float:
    """Peak memory in MiB: of tensors on a GPU, else of this process.

    >>> import torch
    >>> peak_memory_mb(torch.device("cpu")) > 10
    True
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_peak_bytes() / 2**20


def resident_peak_bytes() -> int:
    """The most memory that this process has had resident; on Linux, since ``/proc/self/clear_refs`` was last written.

    Zero on systems that do not say (Windows has no ``resource``).
    """
    status = Path("/proc/self/status")
    if status.exists():  # its peak, unlike getrusage's, does not begin with that of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
