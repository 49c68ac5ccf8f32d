"""The detections in a photo, with the photo. Draws itself, also as the last line of a notebook cell."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError
from focaldet.files import replacing
from focaldet.photos.draw import draw_detections
from focaldet.runtime.model import DetectionArrays


@dataclass(frozen=True, repr=False)
class Prediction:
    """Detections in one photo, best first.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB.
        found: boxes, scores and labels as arrays.
        class_names: name of each label.
        coverage: share of the true boxes inside the bands, if there are bands.
    """

    photo: NDArray[np.uint8]
    found: DetectionArrays
    class_names: tuple[str, ...]
    coverage: float | None = None

    @property
    def boxes_xyxy(self) -> NDArray[np.float32]:
        """``(N, 4)`` pixels of the photo."""
        return self.found.boxes_xyxy

    @property
    def scores(self) -> NDArray[np.float32]:
        """``(N,)`` in [0, 1]; chances if the run is calibrated."""
        return self.found.scores

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(N,)`` indices of ``class_names``."""
        return self.found.labels

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[label] for label in self.labels]

    @property
    def side_std_px(self) -> NDArray[np.float32] | None:
        """``(N, 4)`` standard deviation of the left, top, right and bottom sides in pixels, if the method has one."""
        return self.found.side_std_px

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common()) or "nothing"
        return f"<{counts} in {self.photo.shape[1]} × {self.photo.shape[0]} px>"

    def draw(self) -> Image.Image:
        """The photo with the boxes and the error bars of their sides."""
        return draw_found(self.photo, self.found, self.class_names, self.coverage)

    def save(self, file: str | Path) -> None:
        """Write the drawn photo.

        Raises:
            InputError: the name has no suffix of an image format, or the file cannot be written.
        """
        file = Path(file)
        suffixes = Image.registered_extensions()
        if suffixes.get(file.suffix.lower()) not in Image.SAVE:
            raise InputError(f"{file}: expected a name that ends in .png, .jpg or another image format's suffix")
        with replacing(file) as beside:
            self.draw().save(beside, format=suffixes[file.suffix.lower()])

    def _repr_png_(self) -> bytes:
        """PNG that a notebook shows."""
        png = io.BytesIO()
        self.draw().save(png, format="PNG")
        return png.getvalue()


def draw_found(
    photo: NDArray[np.uint8], found: DetectionArrays, class_names: Sequence[str], coverage: float | None, **options: Any
) -> Image.Image:
    """Draw the boxes with their bands, or else with the standard deviations of their sides."""
    reach = found.side_std_px
    if coverage is not None and found.side_low_px is not None and found.side_high_px is not None:
        reach = np.maximum(found.boxes_xyxy - found.side_low_px, found.side_high_px - found.boxes_xyxy)
        options["band"] = f"band: {coverage:.0%} of the true boxes"
    return draw_detections(photo, found.boxes_xyxy, found.labels, found.scores, class_names, reach, **options)
