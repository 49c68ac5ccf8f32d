"""What every detector in use can do, whatever runs it, and what it takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from focaldet.runtime.certainty import Certainty


@dataclass(frozen=True)
class Seen:
    """A photo as the network sees it.

    Args:
        pixels: of the kind that the model takes.
        size: (height, width) of what the network sees.
        photo_size: (height, width) of the photo.
    """

    pixels: Any
    size: tuple[int, int]
    photo_size: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """The objects of one photo, best first: ``focaldet.Detections`` as arrays.

    Args:
        boxes_xyxy: ``(N, 4)`` float32, pixels of the photo.
        scores: ``(N,)`` float32 in [0, 1], not increasing.
        labels: ``(N,)`` int64 in [0, C).
        side_std_px: ``(N, 4)`` float32, the standard deviation of each side (left, top, right, bottom) in pixels of the
            photo, or ``None`` for a method whose sides are single numbers.
        raw_scores: ``(N,)`` float32, the scores as the network gives them, where ``scores`` are calibrated.
        side_low_px, side_high_px: ``(N, 4)`` float32, where bands of the sides were asked for.
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

    def above(self, score: float) -> "Found":
        """Those with a higher score.

        >>> boxes = np.zeros((2, 4), np.float32)
        >>> len(Found(boxes, np.array([0.9, 0.3], np.float32), np.zeros(2, np.int64), None).above(0.5))
        1
        """
        return self.at(self.scores > score)

    def at(self, index: NDArray[Any]) -> "Found":
        """Some of them, by a mask or in the order of their indices."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return Found(**chosen)

    def in_photo(self, seen: Seen, *, last_pixel: bool = False) -> "Found":
        """These, of what the network saw, in pixels of the photo.

        Args:
            last_pixel: a box's right and bottom side are the last column and row of pixels in it.

        >>> seen = Seen(None, (24, 32), (48, 64))
        >>> boxes = np.array([[1, 2, 3, 4]], np.float32)
        >>> Found(boxes, np.ones(1, np.float32), np.zeros(1, np.int64), None).in_photo(seen).boxes_xyxy
        array([[2., 4., 6., 8.]], dtype=float32)
        """
        height, width = seen.photo_size
        scale = np.array([width / seen.size[1], height / seen.size[0]] * 2, np.float32)
        boxes = self.boxes_xyxy * scale
        if last_pixel:
            boxes = (boxes + np.array([0, 0, 1, 1], np.float32)).clip(0, np.array([width, height] * 2, np.float32))
        return replace(
            self, boxes_xyxy=boxes, side_std_px=None if self.side_std_px is None else self.side_std_px * scale
        )


class Model(Protocol):
    """A detector in two steps: the first on any thread, the second a batch at a time."""

    certainty: "Certainty | None"
    """Its calibration, which ``detect`` has applied to the scores."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""

    def prepare(self, photo: NDArray[np.uint8]) -> Seen:
        """Scale a photo ``(H, W, 3)`` for the network."""

    def detect(self, batch: Sequence[Seen]) -> list[Found]:
        """The objects of some photos that the network sees at one size."""
