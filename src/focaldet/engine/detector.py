"""A trained detector: load a run, pass photos, get boxes and the standard deviation of each side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from focaldet.checks import InputError, check_finite_weights
from focaldet.data.images import as_tensor
from focaldet.engine.calibrated import calibrated_detections, detection_bands, read_certainty
from focaldet.engine.detect import as_arrays, as_detections, to_photo
from focaldet.engine.devices import choose_device
from focaldet.engine.hub import local_run
from focaldet.engine.spec import ModelSpec, check_shapes, read_spec
from focaldet.methods.method import Method
from focaldet.models.detector import DenseDetector
from focaldet.models.postprocess import PostProcess
from focaldet.photos.images import as_photo
from focaldet.photos.regions import regions_of
from focaldet.runtime.certainty import Certainty
from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.runtime.window_stream import look_at
from focaldet.runtime.windows import Tiling
from focaldet.structures import Detections, HeadOutputs


class Detector:
    """A network with its method and class names.

    >>> detector = Detector.load("runs/cells")  # doctest: +SKIP
    >>> detections = detector.predict("photo.jpg")  # doctest: +SKIP
    >>> detections.boxes_xyxy, detections.side_std_px  # doctest: +SKIP
    """

    def __init__(
        self,
        spec: ModelSpec,
        net: DenseDetector,
        method: Method,
        *,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        certainty: Certainty | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        if max_detections is not None:
            spec = replace(spec, postprocess=spec.postprocess.with_room(max_detections))
        threshold = spec.postprocess.score_threshold if score_threshold is None else score_threshold
        if not 0 <= threshold < 1:
            raise InputError(f"score: expected a number in [0, 1), got {threshold}")
        self.spec = spec
        self.tiling = tiling
        self.certainty = certainty
        self.net = net.eval()
        self.method = method
        self.postprocess = PostProcess(method, net.strides, spec.postprocess, score_threshold=threshold)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class name of each label."""
        return self.spec.class_names

    def evaluation_postprocess(self) -> PostProcess:
        """The post-processing for measuring AP."""
        return self.spec.evaluation_postprocess(self.method, self.net.strides)

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        calibrated: bool = True,
        device: str | torch.device = "auto",
        tile: int | None = None,
        overlap: float | None = None,
    ) -> Detector:
        """Load ``model.json`` and ``model.safetensors`` from a run folder of ``focaldet train`` or ``focaldet import``.

        Args:
            run: the folder, or ``hf:OWNER/NAME``.
            score_threshold, max_detections: see ``PostProcessConfig``; ``None``: the model's own. In windows, a photo
                keeps all detections of its windows unless ``max_detections`` is given.
            calibrated: give calibrated scores if the run has a ``calibration.json``.
            device: device of the network, see ``choose_device``.
            tile, overlap: windows in which to detect, see ``tiling_for``; ``None``: as trained.

        Raises:
            InputError: a file is missing, damaged or written by a newer focaldet, the device does not exist, or the
                windows are out of range.
        """
        run = local_run(run)
        if not run.is_dir():
            raise InputError(f"{run}: no such run folder")
        spec = read_spec(run / "model.json")
        file = run / "model.safetensors"
        if not file.exists():
            raise InputError(f"{file}: no such file; the run was copied without its weights")
        tiling = spec.tiling(tile, overlap, max_detections=max_detections)
        if tiling is not None and max_detections is not None:  # it limits the photo; windows need no lower limit
            max_detections = max(max_detections, spec.postprocess.max_detections)
        check_shapes(file, spec)
        net, method = spec.build()
        net.load_state_dict(load_file(file))
        check_finite_weights(file, net.state_dict())
        detector = cls(
            spec,
            net,
            method,
            score_threshold=score_threshold,
            max_detections=max_detections,
            certainty=read_certainty(run, spec.class_names) if calibrated else None,
            tiling=tiling,
        )
        check_finite_outputs(file, detector.net)
        return detector.to(device)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.net.mean.device

    def to(self, device: str | torch.device) -> Detector:
        """Move the network to a device; returns this detector."""
        self.net.to(choose_device(device, self.spec.method))
        return self

    def with_score_threshold(self, score: float) -> Detector:
        """A copy that keeps detections with a higher score than this, before calibration."""
        return Detector(
            self.spec, self.net, self.method, score_threshold=score, certainty=self.certainty, tiling=self.tiling
        )

    def predict(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> Detections:
        """Detect the objects in one photo; boxes are in pixels of the photo.

        Args:
            image: file, PIL image, or ``(H, W, 3)`` uint8 RGB. A file is rotated upright according to its EXIF
                orientation; a PIL image is used unchanged.
        """
        if self.tiling is not None:
            with regions_of(image) as photo:
                return as_detections(look_at(self, photo, self.tiling))
        (found,) = self._detections([self.prepare(as_photo(image))])
        return found if self.certainty is None else calibrated_detections(found, self.certainty)

    def side_bands(
        self, detections: Detections, photo_size: tuple[int, int], *, coverage: float = 0.9, whole_box: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest position of each side in pixels, both ``(N, 4)``: left, top, right, bottom.

        In a share ``coverage`` of the detected objects, the true box lies between the two.

        Args:
            detections: detections in one photo.
            photo_size: (height, width).
            coverage: 0.5 to 0.99.
            whole_box: promise all four sides of a box at once; otherwise each side separately.

        Raises:
            InputError: the run has no calibration, or too few boxes matched an object when it was made.
        """
        return detection_bands(self.certainty, detections, photo_size, coverage=coverage, whole_box=whole_box)

    def prepare(self, photo: NDArray[np.uint8]) -> NetworkInput:
        """Scale a photo ``(H, W, 3)`` uint8 RGB for the network: the first half of ``predict``. Thread-safe."""
        pixels = as_tensor(self.spec.resize(photo, self.spec.size))
        return NetworkInput(pixels, (int(pixels.shape[1]), int(pixels.shape[2])), (photo.shape[0], photo.shape[1]))

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        """Detect on prepared photos of the same size: the second half of ``predict``, with arrays as result."""
        found = [as_arrays(found) for found in self._detections(batch)]
        return found if self.certainty is None else [self.certainty.calibrated(boxes) for boxes in found]

    def _detections(self, batch: Sequence[NetworkInput]) -> list[Detections]:
        with torch.no_grad():
            outputs = self.net(torch.stack([seen.pixels for seen in batch]).to(self.device))
        found = self.postprocess(outputs, [seen.size for seen in batch])
        last_pixel = self.spec.postprocess.last_pixel
        return [
            to_photo(detections, seen.size, seen.photo_size, last_pixel=last_pixel)
            for detections, seen in zip(found, batch, strict=True)
        ]


def check_finite_outputs(file: Path, net: DenseDetector) -> None:
    """Raise InputError if a network returns infinity or NaN for a small image of all grey values.

    Finite weights can be so large that no score is above a threshold: without this check, the network would silently
    detect nothing.
    """
    image = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
    with torch.no_grad():
        outputs: HeadOutputs = net(as_tensor(image)[None])
    maps = (*outputs.class_logits, *outputs.box_maps, *(outputs.quality_logits or ()))
    if not all(bool(values.isfinite().all()) for values in maps):
        raise InputError(
            f"{file}: its network outputs infinity or NaN: the training diverged, or the file is damaged; "
            "use other weights, or train again with a lower --lr"
        )
