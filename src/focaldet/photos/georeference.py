"""Map coordinates of the pixels of a GeoTIFF, from the file's tags.

Pillow can read the tags of the GeoTIFF standard (OGC 19-008), so no other package is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, TiffImagePlugin

from focaldet.photos.images import no_size_warnings

PIXEL_SCALE, TIEPOINT, TRANSFORMATION, KEYS = 33550, 33922, 34264, 34735
"""Tags: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory."""

_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_PIXEL_IS_POINT = 2
_USER_DEFINED = 32_767

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})


@dataclass(frozen=True)
class Georeference:
    """The map coordinates of pixels.

    Args:
        affine: ``(2, 3)``: (column, row, 1) to (x, y); columns and rows count from the photo's top left corner.
        epsg: code of the coordinate system, or ``None`` if the file states none.
    """

    affine: NDArray[np.float64]
    epsg: int | None

    def points(self, pixels_xy: ArrayLike) -> NDArray[np.float64]:
        """``(..., 2)`` positions in the photo to map coordinates.

        >>> Georeference(np.array([[0.5, 0, 400000], [0, -0.5, 5000000]]), 32633).points([[10, 20]]).tolist()
        [[400005.0, 4999990.0]]
        """
        points = np.asarray(pixels_xy, np.float64)
        return np.asarray(points @ self.affine[:, :2].T + self.affine[:, 2])


def read_georeference(path: Path) -> Georeference | None:
    """The georeference of a file; ``None`` if the tags are missing or damaged, or the file is of another kind."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    try:
        with no_size_warnings(), TiffImagePlugin.TiffImageFile(path) as image:
            tags = image.tag_v2
            if tags.get(ExifTags.Base.Orientation, 1) != 1:  # its coordinates refer to the pixels as stored
                return None
            return georeference_of(
                {key: tags[key] for key in (PIXEL_SCALE, TIEPOINT, TRANSFORMATION, KEYS) if key in tags}
            )
    except Exception:  # Pillow raises exceptions of every type on damaged files
        return None


def georeference_of(tags: dict[int, Any]) -> Georeference | None:
    """The georeference that tags describe, or ``None``."""
    keys = _geo_keys(tags.get(KEYS, ()))
    if TRANSFORMATION in tags:
        matrix = np.array(tags[TRANSFORMATION], np.float64).reshape(4, 4)
        affine = matrix[:2, [0, 1, 3]]
    elif PIXEL_SCALE in tags and TIEPOINT in tags:
        across, down = tags[PIXEL_SCALE][:2]
        column, row, _, x, y = tags[TIEPOINT][:5]
        affine = np.array([[across, 0, x - across * column], [0, -down, y + down * row]], np.float64)
    else:
        return None
    if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # then the coordinates refer to the pixels' centres
        affine = affine.copy()
        affine[:, 2] -= affine[:, :2].sum(axis=1) / 2
    if not np.isfinite(affine).all() or np.linalg.det(affine[:, :2]) == 0:
        return None
    epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC))
    return Georeference(affine, None if epsg in (None, 0, _USER_DEFINED) else epsg)


def _geo_keys(directory: Sequence[int]) -> dict[int, int]:
    """The keys whose values are in the directory itself: groups of key, place of the value (0: here), count, value."""
    groups = [directory[at : at + 4] for at in range(4, len(directory) - 3, 4)]
    return {group[0]: group[3] for group in groups if group[1] == 0}
