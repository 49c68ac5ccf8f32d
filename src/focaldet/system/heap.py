"""Memory settings for training on a CPU: the process keeps its memory, in huge pages.

A step allocates and frees the same hundreds of megabytes. By default, glibc returns each large block to the system
immediately, which maps and zeroes it again, page by page, in the next step. Keeping the memory in pages of 2 MiB avoids
this cost; docs/adr/0005 has measurements.
"""

import ctypes
import os
import sys

CHUNK = 2**30
"""Bytes of address space by which the heap grows. Memory is only used once it is touched."""

_HUGE_PAGE = 2**21
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _MADV_HUGEPAGE = -1, -2, -4, 14


def keep_memory() -> bool:
    """Keep freed memory for the life of the process, and use huge pages. Has no effect without glibc.

    Returns:
        Whether the C library accepted the settings.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:  # the user has tuned it
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    libc.sbrk.argtypes, libc.malloc.argtypes, libc.free.argtypes = (
        [ctypes.c_ssize_t],
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    settings = [(_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, CHUNK)]
    taken = all(libc.mallopt(name, value) for name, value in settings)
    start = -(-libc.sbrk(0) // _HUGE_PAGE) * _HUGE_PAGE
    libc.free(libc.malloc(CHUNK))  # moves the top of the heap far up
    end = libc.sbrk(0)
    if end > start:
        libc.madvise(start, end - start, _MADV_HUGEPAGE)  # a hint: kernels without huge pages ignore it
    return taken
