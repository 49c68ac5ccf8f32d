import subprocess
import sys

import pytest

USE = """
import resource
import sys
import torch
from focaldet.system.heap import keep_memory

if sys.argv[1] == "keep":
    assert keep_memory()
for _ in range(3):  # the first rounds find the memory
    torch.ones(16 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Page faults of making and dropping 64 MB twenty times."""
    command = [sys.executable, "-c", USE, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_is_kept_is_not_mapped_anew() -> None:
    given_back, kept = page_faults("give back"), page_faults("keep")
    assert given_back > 20 * 16
    assert kept < given_back / 10
