"""Training on windows of the photos at their own resolution, instead of on whole photos scaled to one size.

The number of windows per photo and epoch is proportional to its area: enough to cover it about once. Their content
depends only on the seed, the epoch and the window's number. A window lies around a random object, or in its own cell of
the photo.
"""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from focaldet.checks import InputError, check_range
from focaldet.data.batching import DetectionDataset
from focaldet.data.images import as_tensor
from focaldet.data.records import ImageRecord
from focaldet.data.transforms import TrainTransform
from focaldet.data.views import View, keep_visible, on_grey
from focaldet.photos.decoded_file import NoRoomError
from focaldet.photos.images import no_size_warnings
from focaldet.photos.regions import PhotoRegions, open_regions
from focaldet.photos.tiling import FILL, Window
from focaldet.scratch import Scratch

MAX_OPEN = 8
"""Number of photos that a process keeps open; each takes at most 48 MB of memory."""


def grid_of(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """(columns, rows) of windows per photo and epoch.

    >>> grid_of((3840, 2400), 640), grid_of((500, 100), 640)
    ((6, 4), (1, 1))
    """
    return max(1, round(size[0] / tile)), max(1, round(size[1] / tile))


def windows_per_epoch(records: Sequence[ImageRecord], tile: int) -> int:
    """Number of windows per epoch."""
    return sum(int(np.prod(grid_of((record.width, record.height), tile))) for record in records)


def place_window(
    record: ImageRecord,
    cell: tuple[int, int],
    grid: tuple[int, int],
    side: int,
    *,
    share: float,
    rng: np.random.Generator,
) -> Window:
    """A window of a photo, cut to the photo.

    Args:
        record: the photo.
        cell: (column, row) of the window's own cell.
        grid: (columns, rows) of cells.
        side: side of the window, pixels.
        share: probability of a window around an object, if there is one.
        rng: random numbers.
    """
    size = (record.width, record.height)
    objects = record.boxes_xyxy[~record.ignored]
    around = rng.random() < share and len(objects) > 0
    box = objects[rng.integers(len(objects))].tolist() if around else None
    starts = []
    for axis in (0, 1):
        last = max(0, size[axis] - side)
        if box is None:
            # Its centre is anywhere in its own cell.
            low = high = size[axis] * (cell[axis] + rng.random()) / grid[axis] - side / 2
        else:  # the whole object, or only a part if it is longer than the window
            low, high = sorted((box[axis], box[axis + 2] - side))
        low, high = min(max(low, 0), last), min(max(high, 0), last)
        starts.append(min(last, round(low + rng.random() * (high - low))))
    return Window(starts[0], starts[1], min(side, size[0]), min(side, size[1]))


class WindowDataset(DetectionDataset):
    """Samples of windows; an index is the number of a window.

    Photos that need no more than ``cache_bytes`` altogether are kept in memory. Otherwise, windows are read from the
    files; formats that must be decoded from the start are decoded once, into a folder that all processes share.

    Args:
        records: one split of a ``DataFolder``.
        transform: transform of a window, with the window's size. The zoom is drawn here, so that a zoomed-out window
            shows more of the photo instead of grey.
        share: share of windows around an object.
        seed, cache_bytes, processes: see ``DetectionDataset``.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        transform: TrainTransform,
        *,
        share: float,
        seed: int = 0,
        cache_bytes: int | None = None,
        processes: int = 1,
    ) -> None:
        check_range("share", share, 0, 1)
        self.tile, self.share = transform.size, share
        self.zoom = (1.0, 1.0) if transform.strength is None else transform.strength.zoom
        if transform.strength is not None:
            transform.strength = replace(transform.strength, zoom=(1.0, 1.0))
        self._grids = [grid_of((record.width, record.height), self.tile) for record in records]
        self._ends = np.cumsum([columns * rows for columns, rows in self._grids])
        self._open: OrderedDict[int, PhotoRegions] = OrderedDict()
        scratch = Scratch()
        self._folder = scratch.path
        weakref.finalize(self, _remove, scratch, self._open)
        self._partial: Tensor = torch.zeros(len(records), dtype=torch.bool)
        self._partial.share_memory_()  # type: ignore[no-untyped-call]
        self._named_partial: set[int] = set()
        super().__init__(records, transform, seed=seed, cache_bytes=cache_bytes, processes=processes)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        """State for a worker that is not forked: it opens the photos itself."""
        return self.__dict__ | {"_open": OrderedDict()}

    def each_sample(self, of_photos: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.repeat(of_photos, [columns * rows for columns, rows in self._grids])

    def photo_of(self, index: int) -> tuple[int, tuple[int, int]]:
        """(index of the photo, (column, row) of the window's own cell)."""
        photo = int(np.searchsorted(self._ends, index, side="right"))
        columns, rows = self._grids[photo]
        cell = index - (int(self._ends[photo]) - columns * rows)
        return photo, (cell % columns, cell // columns)

    def newly_partial(self) -> list[str]:
        new = [index for index in self._partial.nonzero().flatten().tolist() if index not in self._named_partial]
        self._named_partial.update(new)
        return [f"{self.records[i].path}: parts of it cannot be read, and are grey in training" for i in new]

    def _kept_size(self, record: ImageRecord) -> tuple[int, int]:
        return record.width, record.height

    def _decode(self, path: Path) -> UInt8[Tensor, "3 H W"]:
        with open_regions(path) as photo:
            return as_tensor(photo.read(0, 0, *photo.size))

    def _read(self, index: int) -> UInt8[Tensor, "3 H W"] | None:
        # Several threads fill the memory, each with its own open photo.
        try:
            with open_regions(self.records[index].path) as photo:
                pixels = photo.read(0, 0, *photo.size)
                self._partial[index] |= bool(photo.problem)
        except NoRoomError:
            raise
        except InputError:
            self._unreadable[index] = True
            return None
        return as_tensor(pixels)

    def _view(self, index: int, drawn: tuple[int, ...]) -> View | None:
        photo, cell = self.photo_of(index)
        record = self.records[photo]
        rng = np.random.default_rng(drawn)
        side = max(1, round(self.tile / self.zoom[0] * (self.zoom[0] / self.zoom[1]) ** rng.random()))
        window = place_window(record, cell, self._grids[photo], side, share=self.share, rng=rng)
        pixels = self._pixels(photo, window)
        if pixels is None:
            return None
        corner = np.array([window.left, window.top] * 2, np.float32)
        seen = (record.boxes_xyxy[:, :2] < corner[:2] + np.array([window.width, window.height])).all(1)
        seen &= (record.boxes_xyxy[:, 2:] > corner[:2]).all(1)
        boxes = torch.from_numpy(record.boxes_xyxy[seen] - corner)
        view = keep_visible(
            View(pixels, boxes, torch.from_numpy(record.labels[seen]), torch.from_numpy(record.ignored[seen]))
        )
        view = _without_grey(view) if self._partial[photo] else view
        return _framed(view, side, rng)

    def _pixels(self, photo: int, window: Window) -> UInt8[Tensor, "3 H W"] | None:
        left, top, width, height = window
        if self._images is not None:
            image = self._images[photo]
            return None if image is None else image[:, top : top + height, left : left + width].clone()
        if self._unreadable[photo]:
            return None
        try:
            regions = self._regions(photo)
            pixels: NDArray[np.uint8] = regions.read(*window)
        except NoRoomError:
            raise
        except InputError:
            self._unreadable[photo] = True
            return None
        self._partial[photo] |= bool(regions.problem)
        return as_tensor(pixels)

    def _regions(self, photo: int) -> PhotoRegions:
        if photo not in self._open:
            with no_size_warnings():
                self._open[photo] = open_regions(self.records[photo].path, keep=self._folder)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(photo)
        return self._open[photo]


def _framed(view: View, side: int, rng: np.random.Generator) -> View:
    """A view padded with grey if the photo is smaller than the window; the photo's position is random."""
    height, width = view.image.shape[-2:]
    if (width, height) == (side, side):
        return view
    left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
    return on_grey(view, (side, side), (left, top))


def _without_grey(view: View) -> View:
    """A view in which objects in unreadable parts are ignore regions."""
    ignored = view.ignored.clone()
    for index, box in enumerate(view.boxes_xyxy.round().int().tolist()):
        ignored[index] |= bool((view.image[:, box[1] : box[3], box[0] : box[2]] == FILL).all())
    return View(view.image, view.boxes_xyxy, view.labels, ignored)


def _remove(scratch: Scratch, photos: "OrderedDict[int, PhotoRegions]") -> None:
    for photo in photos.values():
        photo.close()
    scratch.remove()
