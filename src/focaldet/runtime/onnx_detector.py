"""A detector in an ONNX file, run by onnxruntime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError
from focaldet.files import read_bytes
from focaldet.photos.images import as_photo
from focaldet.photos.regions import regions_of
from focaldet.records.calibration import parse_calibration
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.certainty import Certainty
from focaldet.runtime.external_data import external_folder
from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.runtime.outputs import OutputArrays, check_outputs, read_outputs
from focaldet.runtime.providers import onnx_session, provider_session, provider_title, reason
from focaldet.runtime.window_stream import look_at
from focaldet.runtime.windows import Tiling, tiling_for

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxDetector:
    """A detector written by ``focaldet export RUN --format onnx``.

    >>> model = OnnxDetector.load("cells.onnx")  # doctest: +SKIP
    >>> found = model.predict("photo.jpg")  # doctest: +SKIP
    >>> found.boxes_xyxy, found.side_std_px, [model.class_names[label] for label in found.labels]  # doctest: +SKIP
    """

    def __init__(
        self, session: "InferenceSession", card: ModelCard, *, calibrated: bool = True, tiling: Tiling | None = None
    ) -> None:
        self.session = session
        self.card = card
        self.tiling = tiling
        use = calibrated and card.calibration is not None
        self.certainty = Certainty(parse_calibration(card.calibration)) if use else None
        self._input = session.get_inputs()[0]
        self._outputs = [output.name for output in session.get_outputs()]

    @classmethod
    def load(
        cls,
        file: str | Path,
        *,
        max_detections: int | None = None,
        threads: int | None = None,
        provider: str = "cpu",
        calibrated: bool = True,
        tile: int | None = None,
        overlap: float | None = None,
    ) -> "OnnxDetector":
        """Load an exported file.

        Args:
            max_detections: largest number of detections per photo; ``None``: the file's own. A file that includes NMS
                cannot give more than it was exported for; one with ``outputs`` ``"sites"`` can. In windows, the file's
                limit applies to each window, and this one to the photo; ``None``: as many as its windows have.
            threads: number of compute threads, including the caller's. Idle threads sleep. ``None``: one per core, and
                idle threads spin, which is fastest for single images on an otherwise idle machine.
            provider: execution provider, see ``provider_session``; all but ``cpu`` ignore ``threads``. OpenVINO
                computes in bfloat16 if the processor supports it (AMX or AVX512-BF16; detected on Linux only).
            calibrated: give calibrated scores if the file has a calibration.
            tile, overlap: windows in which to detect, see ``tiling_for``; ``None``: as trained.

        Raises:
            InputError: the file is missing, broken, not a focaldet model or from a newer focaldet, the provider is not
                installed or cannot run it, or the windows are out of range.
        """
        file = Path(file)
        data = read_bytes(file)
        try:
            folder = external_folder(data, file)
            session = onnx_session(data, threads=threads, folder=folder)
            text = session.get_modelmeta().custom_metadata_map.get(KEY)
            if text is None:
                raise InputError("an ONNX file, but not a focaldet model; create one with focaldet export RUN")
            card = ModelCard.from_json(text)
            tiling = tiling_for(
                tile,
                overlap,
                trained_tile=card.tile,
                largest_px=card.largest_px,
                size=card.size,
                nms_iou=card.nms_iou,
                max_detections=max_detections,
            )
            if tiling is None or card.outputs == "sites":
                card = card.with_room(max_detections)
            model = cls(session, card, calibrated=calibrated, tiling=tiling)
            model._check_ends()
            model.session = provider_session(data, provider, folder=folder) or session
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: damaged: names in it are not valid UTF-8; export it again") from error
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        return model

    @property
    def provider(self) -> str | None:
        """Name of the execution provider; ``None``: onnxruntime's own kernels on the CPU."""
        return provider_title(self.session)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.card.class_names

    def prepare(self, photo: NDArray[np.uint8]) -> NetworkInput:
        """Scale a photo ``(H, W, 3)`` uint8 RGB for the network."""
        pixels = self.card.resize(photo, self.card.size)
        return NetworkInput(pixels, (pixels.shape[0], pixels.shape[1]), (photo.shape[0], photo.shape[1]))

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        """Detect objects in a batch of inputs of one size; boxes are in pixels of each photo.

        Raises:
            InputError: the model cannot be run or returns invalid boxes, because the file was changed.
        """
        outputs = self.run(np.stack([seen.pixels for seen in batch]))
        try:
            check_outputs(outputs, len(batch), self.card)
        except ValueError as error:
            raise InputError(f"the exported model returned invalid boxes ({error}); export it again") from error
        found = [read_outputs(outputs, index, self.card) for index in range(len(batch))]
        last_pixel = self.card.last_pixel
        found = [boxes.to_photo(seen, last_pixel=last_pixel) for boxes, seen in zip(found, batch, strict=True)]
        return found if self.certainty is None else [self.certainty.calibrated(boxes) for boxes in found]

    def predict(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> DetectionArrays:
        """Detect objects in one photo: a file, a PIL image, or ``(H, W, 3)`` uint8 RGB. Boxes are in its pixels.

        The EXIF orientation is applied to files, but not to PIL images.
        """
        if self.tiling is not None:
            with regions_of(image) as photo:
                return look_at(self, photo, self.tiling)
        (found,) = self.detect([self.prepare(as_photo(image))])
        return found

    def run(self, images: NDArray[Any]) -> OutputArrays:
        """Run the model on ``(B, h, w, 3)`` images from ``prepare``; return the outputs by name.

        Raises:
            InputError: the model cannot be run.
        """
        try:
            outputs = self.session.run(None, {self._input.name: images})
        except Exception as error:  # onnxruntime raises many classes
            size = f"{images.shape[2]} x {images.shape[1]} px"
            raise InputError(f"the exported model cannot be run on a photo of {size} ({reason(error)})") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def _check_ends(self) -> None:
        """Raise InputError unless inputs and outputs match the model card."""
        if self.card.outputs == "raw":
            raise InputError(
                "outputs raw maps, which are for other programs; export it again with --outputs detections"
            )
        image = "tensor(float)" if self.card.resize.resampling == "torchvision" else "tensor(uint8)"
        kinds = {"boxes_xyxy": "tensor(float)", "scores": "tensor(float)"}
        if self.card.outputs == "detections":
            kinds |= {"labels": "tensor(int64)", "count": "tensor(int64)"}
        inputs, outputs = self.session.get_inputs(), {end.name: end.type for end in self.session.get_outputs()}
        fed = [(end.type, len(end.shape)) for end in inputs] == [(image, 4)]
        if not fed or not kinds.items() <= outputs.items():
            raise InputError("its inputs and outputs do not match its model card; export it again")
