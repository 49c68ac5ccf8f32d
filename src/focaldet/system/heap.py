"""Memory for training on a CPU: kept by the process, in huge pages.

A step allocates and frees the same hundreds of megabytes. glibc gives each large block back to the system at once,
which zeroes and maps it anew, page by page, in the next step. Kept, and in pages of 2 MiB, they cost nothing. What it
gives is measured in docs/adr/0005.
"""

import ctypes
import os
import sys

CHUNK = 2**30
"""The heap grows by so many bytes of addresses at a time. Memory is taken as it is touched."""

_HUGE_PAGE = 2**21
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _MADV_HUGEPAGE = -1, -2, -4, 14


def keep_memory() -> bool:
    """Never give memory back; take it in huge pages. For the process's life; nothing happens without glibc.

    Returns:
        Whether the C library took the settings.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:  # who tunes it knows better
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
    libc.free(libc.malloc(CHUNK))  # the heap's top is now far beyond what it was
    end = libc.sbrk(0)
    if end > start:
        libc.madvise(start, end - start, _MADV_HUGEPAGE)  # advice: a kernel without huge pages goes on without
    return taken
