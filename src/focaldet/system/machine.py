"""Name of the processor, to go with measurements."""

import contextlib
import platform
from pathlib import Path


def processor() -> str:
    """Name of the processor as reported by the system."""
    with contextlib.suppress(OSError):  # Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
