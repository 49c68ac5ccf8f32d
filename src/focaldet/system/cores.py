"""Number of usable cores."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Folder in which Linux shows the limits of control groups, such as containers."""

OWN_CGROUPS = Path("/proc/self/cgroup")
"""File with the control groups of this process, a line per hierarchy: number, controllers, path."""


def cores() -> int:
    """Number of cores that this process may use; ``taskset`` or a container can limit it.

    A container can exclude cores or limit the processor time per second; a fraction of a core counts as one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, max(1, math.ceil(quota)))


def cpu_quota(own: Path = OWN_CGROUPS, root: Path = CGROUPS) -> float | None:
    """Processor time per second that the control groups of this process allow; ``None``: no limit, or not Linux.

    The smallest limit of its own group and the enclosing groups, in both versions of control groups.
    """
    return min((quota for place in control_groups("cpu", own, root) if (quota := _quota_of(place))), default=None)


def control_groups(controller: str, own: Path = OWN_CGROUPS, root: Path = CGROUPS) -> list[Path]:
    """Folders of this process's control groups and the enclosing groups; empty if there are none."""
    try:
        groups = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    places = []
    for _, controllers, path in groups:
        if not controllers or controller in controllers.split(","):
            top = root / controllers
            folder = top / path.lstrip("/")  # may be missing in a container: then the root has the limits
            places += [place for place in (folder, *folder.parents) if place.is_relative_to(top)]
    return places


def _quota_of(folder: Path) -> float | None:
    """Limit of one group: ``cpu.max`` holds "quota period" or "max period"; version 1 has a file for each."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        share = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if 0 < share else None
