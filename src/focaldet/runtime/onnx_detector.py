"""A detector in an ONNX file, run by onnxruntime."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError, check_range, one_line
from focaldet.files import read_bytes
from focaldet.photos.images import as_photo
from focaldet.photos.regions import regions_of
from focaldet.records.calibration import parse_calibration
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.certainty import Certainty
from focaldet.runtime.external_data import external_folder
from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.runtime.outputs import OutputArrays, check_outputs, read_outputs
from focaldet.runtime.window_stream import look_at
from focaldet.runtime.windows import Tiling, tiling_for

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPENVINO = "OpenVINOExecutionProvider"
_KEPT = 1000
"""Size of OpenVINO's cache of compiled layers, with one entry per layer and photo size. With its default of 5,000, the
memory of a server would keep growing by 5 MB per size."""


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
        openvino: bool = False,
        calibrated: bool = True,
        tile: int | None = None,
        overlap: float | None = None,
    ) -> "OnnxDetector":
        """Load an exported file.

        Args:
            max_detections: largest number of detections per photo; ``None``: that of the file. A file that includes NMS
                cannot give more than it was exported for; one with ``outputs`` ``"sites"`` can. In windows, the limit
                of the file is that of a window, and a photo has as many as its windows unless this is given.
            threads: number of compute threads, including the caller's. Idle threads sleep. ``None``: one per core, and
                idle threads spin, which is fastest for single images on an otherwise idle machine.
            openvino: run with OpenVINO on all cores, regardless of ``threads``, and in bfloat16 if the processor
                supports it (AMX or AVX512-BF16; detected on Linux only). Needs the package onnxruntime-openvino instead
                of onnxruntime.
            calibrated: give calibrated scores if the file carries a calibration.
            tile, overlap: windows in which to detect, see ``tiling_for``; ``None``: as trained.

        Raises:
            InputError: the file is missing, broken, not a focaldet model or from a newer focaldet, OpenVINO is not
                installed, or the windows are out of range.
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
            if openvino:
                model.session = openvino_session(data, folder=folder)
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: damaged: names in it are not valid UTF-8; export it again") from error
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        return model

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
            raise InputError(f"the exported model cannot be run on a photo of {size} ({_reason(error)})") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def _check_ends(self) -> None:
        """Raise InputError unless inputs and outputs are those of the model card."""
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


def onnx_session(data: bytes, *, threads: int | None = None, folder: Path | None = None) -> "InferenceSession":
    """An onnxruntime session for an ONNX file.

    Args:
        data: content of the file. Because it is loaded from memory, onnxruntime does not open external weights that an
            untrusted model may name, unless ``folder`` is given.
        threads: see ``OnnxDetector.load``.
        folder: folder of the external weights, from ``external_folder``.

    Raises:
        InputError: the file is broken.
    """
    import onnxruntime

    options = _options(folder)
    if threads is not None:
        check_range("threads", threads, 1)
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each kind of damage raises another class
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} cannot read it ({_reason(error)}); it is damaged, not an ONNX "
            "file, or made for a newer onnxruntime"
        ) from error


def openvino_session(data: bytes, *, folder: Path | None = None) -> "InferenceSession":
    """A session that runs an ONNX file, which ``onnx_session`` can read, with OpenVINO.

    Raises:
        InputError: this onnxruntime lacks OpenVINO, or OpenVINO cannot run the file.
    """
    import onnxruntime

    if OPENVINO not in onnxruntime.get_available_providers():
        raise InputError(
            f"--openvino: this onnxruntime ({onnxruntime.__version__}) lacks OpenVINO; replace it: "
            "pip uninstall --yes onnxruntime, then pip install onnxruntime-openvino"
        )
    # Without support by the processor, OpenVINO emulates bfloat16, which takes four times as long as float32.
    precision = "bf16" if _multiplies_bfloat16() else "f32"
    cpu = {"INFERENCE_PRECISION_HINT": precision, "CPU_RUNTIME_CACHE_CAPACITY": str(_KEPT)}
    provider = (OPENVINO, {"device_type": "CPU", "load_config": json.dumps({"CPU": cpu})})
    try:
        session = onnxruntime.InferenceSession(data, _options(folder), providers=[provider])
    except Exception as error:
        raise InputError(f"OpenVINO cannot run it ({_reason(error)}); leave out --openvino") from error
    if OPENVINO not in session.get_providers():  # onnxruntime silently drops a provider that fails to start
        raise InputError("OpenVINO fails to start; leave out --openvino, or reinstall onnxruntime-openvino")
    return session


def _multiplies_bfloat16() -> bool:
    """Whether the processor supports bfloat16 products, according to Linux."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _options(folder: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def _reason(error: Exception) -> str:
    """onnxruntime's message without error code and source location."""
    text = one_line(error)
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
