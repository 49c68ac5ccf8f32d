"""Decoded photos in memory that all loader workers share without copying."""

import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from focaldet.photos.images import no_size_warnings
from focaldet.system.cores import cores

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps shared memory; a container has 64 MB of it by default."""


def bytes_of(sizes: Sequence[tuple[int, int]]) -> int:
    """Memory that photos of these (width, height) need."""
    return sum(3 * width * height for width, height in sizes)


def can_keep(sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether photos of these (width, height) can be kept in memory that workers share."""
    if forks() or not SHARED_MEMORY.is_dir():
        return True
    return 2 * bytes_of(sizes) <= shutil.disk_usage(SHARED_MEMORY).free  # batches pass through it, too


def forks() -> bool:
    """Whether workers are forked, and so share the memory of their parent process."""
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return method == "fork"


class KeptPhotos:
    """All photos of a data set, in one block of memory.

    Forked workers inherit the block. For others, as on Windows and macOS, it is shared memory without a file name. It
    is freed with the last process that uses it, however that process ends.

    Args:
        sizes: (width, height) of each photo.
        read: decodes a photo, given its index; ``None`` if it cannot be read.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], read: Callable[[int], UInt8[Tensor, "3 H W"] | None]) -> None:
        self._sizes = tuple(sizes)
        *self._starts, total = accumulate((bytes_of([size]) for size in sizes), initial=0)
        if forks():
            self._block = torch.empty(total, dtype=torch.uint8)
        else:
            storage = torch.UntypedStorage._new_shared(total)  # type: ignore[no-untyped-call]
            self._block = torch.empty(0, dtype=torch.uint8).set_(storage)
        self._others: dict[int, UInt8[Tensor, "3 H W"] | None] = {}  # unreadable, or of another size than stated

        def keep(index: int) -> None:
            photo = read(index)
            width, height = self._sizes[index]
            if photo is not None and photo.shape == (3, height, width):
                self._of_block(index).copy_(photo)
            else:
                self._others[index] = photo

        with no_size_warnings(), ThreadPoolExecutor(max_workers=max(2, cores())) as pool:
            for _ in pool.map(keep, range(len(self._sizes))):
                pass

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 H W"] | None:
        """A photo; ``None`` if it could not be read."""
        return self._others[index] if index in self._others else self._of_block(index)

    def _of_block(self, index: int) -> UInt8[Tensor, "3 H W"]:
        (width, height), start = self._sizes[index], self._starts[index]
        return self._block[start : start + 3 * width * height].view(height, width, 3).permute(2, 0, 1)
