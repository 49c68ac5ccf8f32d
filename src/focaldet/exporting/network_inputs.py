"""Network inputs for calibrating an exported network and comparing it with its run, made as the run makes them."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focaldet.data.records import ImageRecord
from focaldet.engine.detector import Detector
from focaldet.photos.images import read_photo
from focaldet.photos.regions import open_regions
from focaldet.photos.resize import Pixels
from focaldet.runtime.windows import prepare_view

WINDOWS = 128
"""Total number of windows of photos."""


def network_inputs(records: Sequence[ImageRecord], detector: Detector) -> Iterator[Pixels]:
    """Network inputs of photos: each photo as a whole, or ``WINDOWS`` of all their windows, the same each time."""
    tiling = detector.tiling
    if tiling is None:
        for record in records:
            yield detector.spec.resize(read_photo(record.path), detector.spec.size)
        return
    views = [(n, view) for n, record in enumerate(records) for view in tiling.views((record.width, record.height))]
    chosen = sorted(Random(0).sample(views, min(WINDOWS, len(views))))
    for number, group in groupby(chosen, key=lambda entry: entry[0]):
        with open_regions(records[number].path) as photo:
            for _, view in group:
                pixels: Any = prepare_view(detector, photo, view, tiling).pixels
                yield pixels.permute(1, 2, 0).contiguous().numpy()


def photo_to_check(path: Path, detector: Detector) -> NDArray[np.uint8]:
    """A photo, or the window at its centre.

    Raises:
        InputError: it cannot be read.
    """
    if detector.tiling is None:
        return read_photo(path)
    with open_regions(path) as photo:
        width, height = (min(side, detector.tiling.tile) for side in photo.size)
        return photo.read((photo.size[0] - width) // 2, (photo.size[1] - height) // 2, width, height)
