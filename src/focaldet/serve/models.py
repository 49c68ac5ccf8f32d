"""What can be served: a run folder. torch is imported only when one is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Seen:
    """A photo as the network sees it.

    Args:
        pixels: of the kind that the model takes; its last two axes are ``size``.
        size: (height, width) of what the network sees.
        photo_size: (height, width) of the photo.
    """

    pixels: Any
    size: tuple[int, int]
    photo_size: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """The objects of one photo, best first, in its pixels; see ``focaldet.structures.Detections``."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    side_std_px: NDArray[np.float32] | None


class Model(Protocol):
    """A detector in two steps: the first on any thread, the second on one, a batch at a time."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""

    def prepare(self, photo: NDArray[np.uint8]) -> Seen:
        """Scale a photo ``(H, W, 3)`` for the network."""

    def detect(self, batch: Sequence[Seen]) -> list[Found]:
        """The objects of some photos that the network sees at one size."""


def load_model(path: Path) -> Model:
    """The detector of a run folder.

    Raises:
        InputError: it is none, or broken.
    """
    return RunModel(path)


class RunModel:
    """What ``focaldet train`` left in a run folder."""

    def __init__(self, run: Path) -> None:
        from focaldet.engine.predict import Detector

        self.detector = Detector.load(run)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.detector.class_names

    def prepare(self, photo: NDArray[np.uint8]) -> Seen:
        from focaldet.data.images import as_tensor

        spec = self.detector.spec
        pixels = as_tensor(spec.resize(photo, spec.size))
        return Seen(pixels, (int(pixels.shape[1]), int(pixels.shape[2])), (photo.shape[0], photo.shape[1]))

    def detect(self, batch: Sequence[Seen]) -> list[Found]:
        import torch

        from focaldet.engine.average_precision import to_photo

        detector = self.detector
        with torch.inference_mode():
            outputs = detector.net(torch.stack([seen.pixels for seen in batch]))
            found = detector.postprocess(outputs, [seen.size for seen in batch])
        last_pixel = detector.spec.reading.last_pixel
        in_photo = [to_photo(f, s.size, s.photo_size, last_pixel=last_pixel) for f, s in zip(found, batch, strict=True)]
        return [
            Found(
                f.boxes_xyxy.numpy(),
                f.scores.numpy(),
                f.labels.numpy(),
                None if f.side_std_px is None else f.side_std_px.numpy(),
            )
            for f in in_photo
        ]
