"""Peak memory of the process."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_memory_mb(device: "torch.device") -> float:
    """Peak memory in MiB: of the tensors on a GPU, otherwise of this process.

    >>> import torch
    >>> peak_memory_mb(torch.device("cpu")) > 10
    True
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_peak_bytes() / 2**20


def resident_peak_bytes() -> int:
    """Peak resident memory of this process; on Linux, since the last write to ``/proc/self/clear_refs``.

    Zero on systems that do not report it (Windows has no ``resource``).
    """
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage's, this peak does not include the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
