"""Parts of a photo at its own resolution, without keeping the whole of it in memory where its format allows.

Positions and sizes are those of the photo as it is displayed, that is after its EXIF rotation.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError
from focaldet.photos.images import fitted_size, read_photo


class PhotoRegions:
    """A photo of which parts are read. Several threads may read at the same time.

    Args:
        path: its file.
        photo: its pixels.
    """

    def __init__(self, path: Path, photo: NDArray[np.uint8]) -> None:
        self.path = path
        self._photo = photo

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as displayed."""
        return self._photo.shape[1], self._photo.shape[0]

    def read(self, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """A part of the photo, ``(height, width, 3)`` RGB.

        Raises:
            InputError: the part is empty or not inside the photo, or the file cannot be read any more.
        """
        if min(left, top) < 0 or min(width, height) < 1 or left + width > self.size[0] or top + height > self.size[1]:
            raise InputError(
                f"{self.path}: {width} × {height} px at ({left}, {top}) are not inside its "
                f"{self.size[0]:,} × {self.size[1]:,} px"
            )
        return self._photo[top : top + height, left : left + width].copy()

    def reduced(self, longest: int) -> NDArray[np.uint8]:
        """The whole photo, scaled down so that its longer side has at most so many pixels."""
        if longest >= max(self.size):
            return self._photo.copy()
        image = Image.fromarray(self._photo)
        return np.array(image.resize(fitted_size(*self.size, longest), Image.Resampling.BILINEAR))

    def close(self) -> None:
        """Give back what the photo takes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_regions(path: Path) -> PhotoRegions:
    """Open a photo of which parts will be read.

    Raises:
        InputError: as ``read_photo``.
    """
    return PhotoRegions(path, read_photo(path))
