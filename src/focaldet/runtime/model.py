"""The interface of detectors for inference, and their inputs and outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from focaldet.runtime.certainty import Certainty
    from focaldet.runtime.windows import Tiling


@dataclass(frozen=True)
class NetworkInput:
    """A photo scaled for the network.

    Args:
        pixels: the image, in the format of the model.
        size: (height, width) of the image.
        photo_size: (height, width) of the photo.
    """

    pixels: Any
    size: tuple[int, int]
    photo_size: tuple[int, int]

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Scale (x, y) from pixels of the network input to pixels of the photo."""
        return self.photo_size[1] / self.size[1], self.photo_size[0] / self.size[0]


@dataclass(frozen=True)
class DetectionArrays:
    """Detections in one photo, best first: ``focaldet.Detections`` as arrays.

    Args:
        boxes_xyxy: ``(N, 4)`` float32, pixels of the photo.
        scores: ``(N,)`` float32 in [0, 1], non-increasing.
        labels: ``(N,)`` int64 in [0, C).
        side_std_px: ``(N, 4)`` float32, standard deviation of each side (left, top, right, bottom) in pixels of the
            photo; ``None`` for methods without distributions.
        raw_scores: ``(N,)`` float32, the network's own scores, if ``scores`` are calibrated.
        side_low_px, side_high_px: ``(N, 4)`` float32, the bands of the sides, if they were asked for.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    side_std_px: NDArray[np.float32] | None
    raw_scores: NDArray[np.float32] | None = None
    side_low_px: NDArray[np.float32] | None = None
    side_high_px: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> "DetectionArrays":
        """The detections with a higher score.

        >>> boxes = np.zeros((2, 4), np.float32)
        >>> len(DetectionArrays(boxes, np.array([0.9, 0.3], np.float32), np.zeros(2, np.int64), None).above(0.5))
        1
        """
        return self.at(self.scores > score)

    def at(self, index: NDArray[Any]) -> "DetectionArrays":
        """The detections of a mask, or of indices in their order."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return DetectionArrays(**chosen)

    def scaled(self, across: float, down: float) -> "DetectionArrays":
        """The detections scaled to a copy of the photo of another size.

        >>> found = DetectionArrays(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), None)
        >>> found.scaled(2, 3).boxes_xyxy
        array([[2., 3., 2., 3.]], dtype=float32)
        """
        scale = np.array([across, down] * 2, np.float32)
        in_pixels = ("boxes_xyxy", "side_std_px", "side_low_px", "side_high_px")
        values = {name: getattr(self, name) for name in in_pixels}
        return replace(self, **{name: value * scale for name, value in values.items() if value is not None})

    def to_photo(self, seen: NetworkInput, *, last_pixel: bool = False) -> "DetectionArrays":
        """Convert from pixels of the network input to pixels of the photo.

        Args:
            seen: the network input.
            last_pixel: see ``boxes_to_photo``.

        >>> seen = NetworkInput(None, (24, 32), (48, 64))
        >>> boxes = np.array([[1, 2, 3, 4]], np.float32)
        >>> DetectionArrays(boxes, np.ones(1, np.float32), np.zeros(1, np.int64), None).to_photo(seen).boxes_xyxy
        array([[2., 4., 6., 8.]], dtype=float32)
        """
        boxes = boxes_to_photo(self.boxes_xyxy, seen, last_pixel=last_pixel)
        stds = None if self.side_std_px is None else self.side_std_px * np.array(seen.scale_xy * 2, np.float32)
        return replace(self, boxes_xyxy=boxes, side_std_px=stds)


def boxes_to_photo(
    boxes_xyxy: NDArray[np.float32], seen: NetworkInput, *, last_pixel: bool = False
) -> NDArray[np.float32]:
    """Convert boxes ``(N, 4)`` from pixels of the network input to pixels of the photo.

    Args:
        seen: the network input.
        last_pixel: a box's right and bottom sides are its last column and row of pixels, as in mmdetection before
            version 2, so in a photo it ends one pixel farther.
    """
    boxes = boxes_xyxy * np.array(seen.scale_xy * 2, np.float32)
    if last_pixel:
        height, width = seen.photo_size
        boxes = (boxes + np.array([0, 0, 1, 1], np.float32)).clip(0, np.array([width, height] * 2, np.float32))
    return boxes


class Model(Protocol):
    """A detector in two steps: ``prepare`` on any thread, ``detect`` on batches."""

    certainty: "Certainty | None"
    """Calibration of the model; ``detect`` applies it to the scores."""
    tiling: "Tiling | None"
    """Windows to detect in, see ``runtime.windows``; ``None``: each photo as a whole."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""

    def prepare(self, photo: NDArray[np.uint8]) -> NetworkInput:
        """Scale a photo ``(H, W, 3)`` for the network."""

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        """Detect objects in a batch of inputs of one size; boxes are in pixels of each photo."""
