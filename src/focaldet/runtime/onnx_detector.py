"""A detector in one ONNX file, run by onnxruntime."""

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
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.external_data import external_folder
from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.runtime.outputs import OutputArrays, check_outputs, read_outputs

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPENVINO = "OpenVINOExecutionProvider"
_KEPT = 1000
"""Layers that OpenVINO keeps as it prepared them, each for one size of photo. With its own 5,000 a server's memory
would grow by 5 MB a size for a long time."""


class OnnxDetector:
    """What ``focaldet export RUN --format onnx`` wrote.

    >>> model = OnnxDetector.load("cells.onnx")  # doctest: +SKIP
    >>> found = model.predict("photo.jpg")  # doctest: +SKIP
    >>> found.boxes_xyxy, found.side_std_px, [model.class_names[label] for label in found.labels]  # doctest: +SKIP
    """

    def __init__(self, session: "InferenceSession", card: ModelCard) -> None:
        self.session = session
        self.card = card
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
    ) -> "OnnxDetector":
        """Read a file.

        Args:
            max_detections: of a photo; ``None``: as many as the file was made for, which is also the most that it can
                give, unless its suppression is done here (``outputs`` ``"sites"``).
            threads: that compute, the caller's among them; one that waits sleeps and leaves its core to others.
                ``None``: one for each core, and one that waits keeps its core busy: the fastest for one image at a time
                on a machine that does nothing else.
            openvino: compute by OpenVINO, on all cores, whatever ``threads`` is; where the processor multiplies
                bfloat16 (AMX or AVX512-BF16, on Linux, which tells) in that instead of float32. Needs the package
                onnxruntime-openvino in the place of onnxruntime.

        Raises:
            InputError: it is missing, broken, no model of focaldet, or a newer one; or there is no OpenVINO.
        """
        file = Path(file)
        data = read_bytes(file)
        try:
            folder = external_folder(data, file)
            session = onnx_session(data, threads=threads, folder=folder)
            text = session.get_modelmeta().custom_metadata_map.get(KEY)
            if text is None:
                raise InputError("an ONNX file, but no model of focaldet; make one with focaldet export RUN")
            model = cls(session, ModelCard.from_json(text).with_room(max_detections))
            model._check_ends()
            if openvino:
                model.session = openvino_session(data, folder=folder)
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: names in it are no text, it is damaged; export it again") from error
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        return model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.card.class_names

    def prepare(self, photo: NDArray[np.uint8]) -> NetworkInput:
        """Scale a photo ``(H, W, 3)`` uint8 RGB as in training."""
        pixels = self.card.resize(photo, self.card.size)
        return NetworkInput(pixels, (pixels.shape[0], pixels.shape[1]), (photo.shape[0], photo.shape[1]))

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        """The objects of some photos that the network sees at one size, in pixels of each photo.

        Raises:
            InputError: the file was changed after it was written: it cannot be run, or what it gives are no boxes.
        """
        outputs = self.run(np.stack([seen.pixels for seen in batch]))
        try:
            check_outputs(outputs, len(batch), self.card)
        except ValueError as error:
            raise InputError(f"the exported model gives what are no boxes ({error}); export it again") from error
        found = [read_outputs(outputs, index, self.card) for index in range(len(batch))]
        last_pixel = self.card.last_pixel
        return [boxes.to_photo(seen, last_pixel=last_pixel) for boxes, seen in zip(found, batch, strict=True)]

    def predict(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> DetectionArrays:
        """The objects in one photo: a file, a PIL image, or ``(H, W, 3)`` uint8 RGB. Pixels are the photo's.

        A file is turned upright by its EXIF orientation; a PIL image is taken as its pixels lie.
        """
        (found,) = self.detect([self.prepare(as_photo(image))])
        return found

    def run(self, images: NDArray[Any]) -> OutputArrays:
        """The outputs, by name, of ``(B, h, w, 3)`` images as ``prepare`` gives them.

        Raises:
            InputError: it cannot be run.
        """
        try:
            outputs = self.session.run(None, {self._input.name: images})
        except Exception as error:  # onnxruntime has its own for each kind
            size = f"{images.shape[2]} x {images.shape[1]} px"
            raise InputError(f"the exported model cannot be run on a photo of {size} ({_reason(error)})") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def _check_ends(self) -> None:
        """Raise InputError unless this can be fed and read."""
        if self.card.outputs == "raw":
            raise InputError(
                "gives the network's raw maps, which are for other programs; export it with --outputs detections"
            )
        image = "tensor(float)" if self.card.resize.resampling == "torchvision" else "tensor(uint8)"
        kinds = {"boxes_xyxy": "tensor(float)", "scores": "tensor(float)"}
        if self.card.outputs == "detections":
            kinds |= {"labels": "tensor(int64)", "count": "tensor(int64)"}
        inputs, outputs = self.session.get_inputs(), {end.name: end.type for end in self.session.get_outputs()}
        fed = [(end.type, len(end.shape)) for end in inputs] == [(image, 4)]
        if not fed or not kinds.items() <= outputs.items():
            raise InputError("its inputs and outputs are not what its description says; export it again")


def onnx_session(data: bytes, *, threads: int | None = None, folder: Path | None = None) -> "InferenceSession":
    """An ONNX file, ready to run.

    Args:
        data: the file. From memory: weights in other files, which a model from elsewhere could name, are then not
            looked for.
        threads: see ``OnnxDetector.load``.

    Raises:
        InputError: it is broken.
    """
    import onnxruntime

    options = _options(folder)
    if threads is not None:
        check_range("threads", threads, 1)
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each kind of damage has its own
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} cannot read it ({_reason(error)}); it is damaged, no ONNX file, or "
            "made for a newer onnxruntime"
        ) from error


def openvino_session(data: bytes, *, folder: Path | None = None) -> "InferenceSession":
    """An ONNX file that ``onnx_session`` can read, ready to run by OpenVINO.

    Raises:
        InputError: this onnxruntime has no OpenVINO, or OpenVINO cannot run the file.
    """
    import onnxruntime

    if OPENVINO not in onnxruntime.get_available_providers():
        raise InputError(
            f"--openvino: this onnxruntime ({onnxruntime.__version__}) is without OpenVINO; replace it: "
            "pip uninstall --yes onnxruntime, then pip install onnxruntime-openvino"
        )
    # Where the processor cannot, OpenVINO would imitate bfloat16, and take four times as long as with float32.
    precision = "bf16" if _multiplies_bfloat16() else "f32"
    cpu = {"INFERENCE_PRECISION_HINT": precision, "CPU_RUNTIME_CACHE_CAPACITY": str(_KEPT)}
    provider = (OPENVINO, {"device_type": "CPU", "load_config": json.dumps({"CPU": cpu})})
    try:
        session = onnxruntime.InferenceSession(data, _options(folder), providers=[provider])
    except Exception as error:
        raise InputError(f"OpenVINO cannot run it ({_reason(error)}); leave out --openvino") from error
    if OPENVINO not in session.get_providers():  # onnxruntime goes on without a provider that fails to start
        raise InputError("OpenVINO does not start here; leave out --openvino, or install onnxruntime-openvino anew")
    return session


def _multiplies_bfloat16() -> bool:
    """Whether Linux says so of the processor."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _options(folder: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def _reason(error: Exception) -> str:
    """What onnxruntime says, without its own code and the place in its source."""
    text = one_line(error)
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
