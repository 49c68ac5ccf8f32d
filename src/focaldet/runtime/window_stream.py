"""One stream of batches over the windows of all photos. Windows bound its memory, whatever the size of the photos."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.photos.images import no_size_warnings
from focaldet.photos.regions import PhotoRegions, regions_of
from focaldet.photos.tiling import Window
from focaldet.runtime.model import DetectionArrays, Model, NetworkInput
from focaldet.runtime.windows import PhotoMerge, Tiling, prepare_view
from focaldet.system.cores import cores
from focaldet.system.progress import Progress

MAX_BATCH = 8
_BATCH_PIXELS = MAX_BATCH * 640**2
_AHEAD_PIXELS = 4 * _BATCH_PIXELS
"""Pixels of windows to read ahead of the network."""

_WAITING_PIXELS = 64_000_000
"""Pixels of photos whose last windows wait for a full batch."""


@dataclass
class Looked:
    """A photo and its detections.

    Args:
        photo: the photo, closed when the next one is requested; ``None`` if it cannot be opened.
        found: its detections.
        fault: the reason if it has none.
    """

    photo: PhotoRegions | None
    found: DetectionArrays | None = None
    fault: InputError | None = None


@dataclass
class _Open:
    """A photo being processed."""

    looked: Looked
    merge: PhotoMerge | None = None
    views: Sequence[Window] = ()
    left: int = 0
    pixels: int = 0


def look(
    model: Model,
    photos: Iterable[Callable[[], PhotoRegions]],
    tiling: Tiling,
    *,
    progress: Progress | None = None,
) -> Iterator[Looked]:
    """Detect in photos window by window, and yield them in their order.

    Args:
        photos: each opens a photo.
        progress: called with the number of windows.
    """
    stream = _Stream(model, tiling, progress)
    try:
        with no_size_warnings():
            yield from stream.run(photos)
    finally:
        stream.close()


def look_at(model: Model, photo: NDArray[np.uint8] | PhotoRegions, tiling: Tiling) -> DetectionArrays:
    """Detect in one photo window by window; an open one stays open.

    Raises:
        InputError: the file cannot be read any more.
    """
    regions = photo if isinstance(photo, PhotoRegions) else regions_of(photo)
    stream = _Stream(model, tiling, None, close_photos=False)
    try:
        (looked,) = stream.run([lambda: regions])
    finally:
        stream.close()
    if looked.fault is not None:
        raise looked.fault
    assert looked.found is not None
    return looked.found


class _Stream:
    def __init__(self, model: Model, tiling: Tiling, progress: Progress | None, *, close_photos: bool = True) -> None:
        self.model, self.tiling, self.progress = model, tiling, progress
        self.close_photos = close_photos
        self.batch = max(1, min(MAX_BATCH, _BATCH_PIXELS // tiling.size**2))
        self.ahead = max(2, min(4 * MAX_BATCH, _AHEAD_PIXELS // max(tiling.tile, tiling.size) ** 2))
        self.pool = ThreadPoolExecutor(max(2, cores()), "windows")
        self.reading: deque[tuple[_Open, Window, Future[NetworkInput]]] = deque()
        self.ready: dict[tuple[int, int], list[tuple[_Open, Window, NetworkInput]]] = {}
        self.opened: deque[_Open] = deque()
        self.done = self.total = 0

    def run(self, photos: Iterable[Callable[[], PhotoRegions]]) -> Iterator[Looked]:
        for opens in photos:
            one = self._open(opens)
            self.opened.append(one)
            for window in one.views:
                self._read(one, window)
                while len(self.reading) >= self.ahead:
                    self._take()
                yield from self._finished()
            waiting = sum(other.pixels for other in self.opened)
            if waiting > _WAITING_PIXELS or len(self.opened) > 2 * self.batch:
                self._flush()
            yield from self._finished()
        self._flush()
        yield from self._finished()

    def _open(self, opens: Callable[[], PhotoRegions]) -> _Open:
        try:
            photo = opens()
        except InputError as error:
            return _Open(Looked(None, fault=error))
        try:
            views = self.tiling.views(photo.size)
        except InputError as error:
            return _Open(Looked(photo, fault=InputError(f"{photo.path}: {error}")))
        self.total += len(views)
        return _Open(
            Looked(photo), PhotoMerge(self.tiling, photo.size), views, len(views), photo.size[0] * photo.size[1]
        )

    def _read(self, one: _Open, window: Window) -> None:
        assert one.looked.photo is not None
        arguments: tuple[Any, ...] = (self.model, one.looked.photo, window, self.tiling)
        self.reading.append((one, window, self.pool.submit(prepare_view, *arguments)))

    def _take(self) -> None:
        """Add the window that was read first to a batch, and run the model if the batch is full."""
        one, window, future = self.reading.popleft()
        try:
            seen = future.result()
        except InputError as error:
            one.looked.fault = error
            self._count(one)
            return
        group = self.ready.setdefault(seen.size, [])
        group.append((one, window, seen))
        if len(group) == self.batch:
            self._detect(seen.size)

    def _detect(self, size: tuple[int, int]) -> None:
        group = self.ready.pop(size)
        found = self.model.detect([seen for _, _, seen in group])
        for (one, window, _), boxes in zip(group, found, strict=True):
            assert one.merge is not None
            one.merge.add(window, boxes)
            self._count(one)

    def _count(self, one: _Open) -> None:
        one.left -= 1
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def _flush(self) -> None:
        while self.reading:
            self._take()
        for size in list(self.ready):
            self._detect(size)

    def _finished(self) -> Iterator[Looked]:
        while self.opened and self.opened[0].left == 0:
            one = self.opened.popleft()
            if one.merge is not None and one.looked.fault is None:
                one.looked.found = one.merge.result()
            try:
                yield one.looked
            finally:
                if one.looked.photo is not None and self.close_photos:
                    one.looked.photo.close()

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        for one in self.opened:
            if one.looked.photo is not None and self.close_photos:
                one.looked.photo.close()
