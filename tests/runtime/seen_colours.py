"""A model that is exact to the pixel: it finds the box of each colour that an object can have. It learns nothing, so
that windows have a right answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from focaldet.photos.regions import FILL
from focaldet.photos.resize import Resize
from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.runtime.windows import Tiling


class SeenColours:
    """Blue is the score in 255ths, the last bit of red the label; see ``painted``."""

    class_names = ("first", "second")
    certainty = None

    def __init__(self, size: int, tiling: Tiling | None = None) -> None:
        self.size, self.tiling = size, tiling
        self.batches: list[int] = []

    def prepare(self, photo: NDArray[np.uint8]) -> NetworkInput:
        height, width, _ = photo.shape
        canvas = Resize().canvas(width, height, self.size)
        rows = np.arange(canvas[1]) * height // canvas[1]
        columns = np.arange(canvas[0]) * width // canvas[0]
        return NetworkInput(photo[rows][:, columns], (canvas[1], canvas[0]), (height, width))

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        assert len({seen.size for seen in batch}) == 1
        self.batches.append(len(batch))
        return [self._found(seen.pixels).to_photo(seen) for seen in batch]

    def _found(self, pixels: NDArray[np.uint8]) -> DetectionArrays:
        numbers = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        boxes, scores, labels = [], [], []
        for number in np.unique(numbers):
            red, green, blue = number >> 16, number >> 8 & 255, number & 255
            if red // 2 == check(green, blue):  # neither background nor a mixture of colours
                rows, columns = np.nonzero(numbers == number)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                scores.append(blue / 255)
                labels.append(red % 2)
        order = np.argsort(-np.array(scores), kind="stable") if scores else np.zeros(0, np.int64)
        boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)[order]
        stds = np.tile(np.array(scores, np.float32).reshape(-1, 1), 4)[order]  # identifies its box
        return DetectionArrays(boxes_xyxy, np.array(scores, np.float32)[order], np.array(labels, np.int64)[order], stds)


def check(green: int, blue: int) -> int:
    """Seven bits that distinguish a colour from mixtures."""
    return (7 * int(green) + int(blue) ** 3) % 101


def painted(size: tuple[int, int], boxes_xyxy: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A photo of boxes, the later on top; the label of a box is the last bit of its number."""
    photo = np.full((size[1], size[0], 3), (FILL, FILL, FILL), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes_xyxy):
        green, blue = number // 200, 55 + number % 200
        photo[y1:y2, x1:x2] = (number % 2 + 2 * check(green, blue), green, blue)
    return photo


def apart(size: tuple[int, int], count: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Boxes of 6 px up to a longest side that do not overlap each other."""
    chance = np.random.default_rng(seed)
    boxes = np.zeros((0, 4), np.int64)
    while len(boxes) < count:
        sides = chance.integers(6, most + 1, 2)
        corner = chance.integers(0, np.array(size) - sides + 1)
        box = np.concatenate([corner, corner + sides])
        if not ((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])).all(axis=1).any():
            boxes = np.concatenate([boxes, box[None]])
    return boxes
