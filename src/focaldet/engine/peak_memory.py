"""The most memory that a process has had."""

import resource
import sys
from pathlib import Path

import torch


def peak_memory_mb(device: torch.device) -> float:
    """MiB: on a GPU, the most that tensors took there; on a CPU, the most that the process had resident.

    >>> peak_memory_mb(torch.device("cpu")) > 10
    True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_peak_bytes() / 2**20


def resident_peak_bytes() -> int:
    """The most memory that this process has had resident; on Linux, since ``/proc/self/clear_refs`` was last told."""
    status = Path("/proc/self/status")
    if status.exists():  # its peak, unlike getrusage's, does not begin with that of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
