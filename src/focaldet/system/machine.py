"""The name of the machine, for whoever reads a measurement."""

import contextlib
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, as the system has it."""
    with contextlib.suppress(OSError):  # Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
