"""Free memory of the machine, and peak memory of the process."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from focaldet.system.cores import CGROUPS, OWN_CGROUPS, control_groups

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


UNKNOWN_FREE = 4 << 30
"""Bytes assumed to be free where the system does not say (Windows)."""

MEMORY = Path("/proc/meminfo")
"""File in which Linux states the available memory."""


def free_bytes(memory: Path = MEMORY, own: Path = OWN_CGROUPS, root: Path = CGROUPS) -> int:
    """Memory still available to this process, limited by the machine and its control groups, such as a container.

    >>> free_bytes() > 2**20
    True
    """
    if memory.exists():
        lines = dict(line.split(":", 1) for line in memory.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    elif hasattr(os, "sysconf"):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    else:
        free = UNKNOWN_FREE
    return min(
        [free, *(left for place in control_groups("memory", own, root) if (left := _left_in(place)) is not None)]
    )


def _left_in(place: Path) -> int | None:
    """Memory that a control group, of either version, still allows. Cached files can be dropped and do not count."""
    for limit, used, gone in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((place / limit).read_text())
            counts = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            return max(0, most - int((place / used).read_text()) + int(counts.get(gone, 0)))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None
