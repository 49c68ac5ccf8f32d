"""A trained detector in use: load a run, give it photos, get boxes with the deviation of each side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from focaldet.checks import InputError, check_finite_weights, near_name, one_line
from focaldet.data.images import as_tensor
from focaldet.engine.average_precision import EVALUATION_SCORE, to_photo
from focaldet.engine.build import FORMAT, METHODS, ModelSpec
from focaldet.engine.config import check_ranges, typed_dataclass, typed_value
from focaldet.files import open_regular, read_json, replacing, write_json
from focaldet.methods.method import Method
from focaldet.models.detector import DenseDetector, Variant
from focaldet.models.postprocess import PostProcess, Reading
from focaldet.photos.images import as_photo
from focaldet.photos.resize import Resize
from focaldet.runtime.model import Found, Seen
from focaldet.structures import Detections

if TYPE_CHECKING:
    from supervision import Detections as SupervisionDetections

SPEC_TYPES = {
    "method": str,
    "class_names": list,
    "backbone": str,
    "size": int,
    "channels": int,
    "head_depth": int,
    "method_options": dict,
}
"""Keys of ``model.json`` that it always has, and the type of each."""

GROUPS = {"network": Variant, "resize": Resize, "reading": Reading}
"""Keys that hold options with a default, and what they are."""


class Detector:
    """A network with its method and the names of its classes.

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
    ) -> None:
        if max_detections is not None:
            spec = replace(spec, reading=spec.reading.with_room(max_detections))
        threshold = spec.reading.score_threshold if score_threshold is None else score_threshold
        if not 0 <= threshold < 1:
            raise InputError(f"score: expected a number in [0, 1), got {threshold}")
        self.spec = spec
        self.net = net.eval()
        self.postprocess = PostProcess(method, net.strides, spec.reading, score_threshold=threshold)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.spec.class_names

    @classmethod
    def load(
        cls, run: str | Path, *, score_threshold: float | None = None, max_detections: int | None = None
    ) -> Detector:
        """Load what ``focaldet train`` or ``import`` left in a run folder (``model.json`` and ``model.safetensors``).

        Args:
            run: the folder.
            score_threshold, max_detections: see ``Reading``; ``None``: the model's own.

        Raises:
            InputError: a file is missing or broken, or was written by a newer focaldet.
        """
        run = Path(run)
        if not run.is_dir():
            raise InputError(f"{run}: no such run folder")
        spec = read_spec(run / "model.json")
        file = run / "model.safetensors"
        if not file.exists():
            raise InputError(f"{file}: no such file; the run was copied without its weights")
        check_shapes(file, spec)
        net, method = spec.build()
        net.load_state_dict(load_file(file))
        check_finite_weights(file, net.state_dict())
        detector = cls(spec, net, method, score_threshold=score_threshold, max_detections=max_detections)
        check_finite_outputs(file, detector.net)
        return detector

    def predict(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> Detections:
        """The objects in one photo: a file, a PIL image, or ``(H, W, 3)`` uint8 RGB. Pixels are the photo's.

        A file is turned upright by its EXIF orientation; a PIL image is taken as its pixels lie.
        """
        (found,) = self._detections([self.prepare(as_photo(image))])
        return found

    def prepare(self, photo: NDArray[np.uint8]) -> Seen:
        """Scale a photo ``(H, W, 3)`` uint8 RGB for the network: the first step of ``predict``, on any thread."""
        pixels = as_tensor(self.spec.resize(photo, self.spec.size))
        return Seen(pixels, (int(pixels.shape[1]), int(pixels.shape[2])), (photo.shape[0], photo.shape[1]))

    def detect(self, batch: Sequence[Seen]) -> list[Found]:
        """The second: the objects of some photos that the network sees at one size, as arrays."""
        return [as_found(found) for found in self._detections(batch)]

    def _detections(self, batch: Sequence[Seen]) -> list[Detections]:
        with torch.no_grad():
            outputs = self.net(torch.stack([seen.pixels for seen in batch]))
        found = self.postprocess(outputs, [seen.size for seen in batch])
        last_pixel = self.spec.reading.last_pixel
        return [
            to_photo(detections, seen.size, seen.photo_size, last_pixel=last_pixel)
            for detections, seen in zip(found, batch, strict=True)
        ]


def as_found(detections: Detections) -> Found:
    """The same detections as arrays."""
    return Found(
        detections.boxes_xyxy.numpy(),
        detections.scores.numpy(),
        detections.labels.numpy(),
        None if detections.side_std_px is None else detections.side_std_px.numpy(),
    )


def to_supervision(detections: Detections, class_names: Sequence[str]) -> SupervisionDetections:
    """The same detections for the ``supervision`` library; side deviations are in ``data["side_std_px"]``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "OpenCV .* is not installed")  # nothing here needs it
        import supervision

    data: dict[str, Any] = {"class_name": np.array([class_names[label] for label in detections.labels.tolist()])}
    if detections.side_std_px is not None:
        data["side_std_px"] = detections.side_std_px.numpy()
    return supervision.Detections(
        xyxy=detections.boxes_xyxy.numpy(),
        confidence=detections.scores.numpy(),
        class_id=detections.labels.numpy(),
        data=data,
    )


def check_shapes(file: Path, spec: ModelSpec) -> None:
    """Raise InputError unless a safetensors file holds the tensors of a network. Takes no memory for either of them."""
    open_regular(file).close()
    try:
        with safe_open(file, framework="pt") as opened:
            there = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)})") from error
    with torch.device("meta"):
        here = {name: tuple(value.shape) for name, value in spec.build()[0].state_dict().items()}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            found, expected = (state.get(name, "nothing") for state in (there, here))
            raise InputError(
                f"{file}: does not fit {file.parent / 'model.json'} ({name}: {found}, expected {expected})"
            )


def check_finite_outputs(file: Path, net: DenseDetector) -> None:
    """Raise InputError where a network gives infinity or what is not a number for a small image of all grey values.

    Weights may be finite and so large that nothing is found: no score is above a threshold, and nobody would be told.
    """
    image = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
    with torch.no_grad():
        outputs = net(as_tensor(image)[None])
    maps = (*outputs.class_logits, *outputs.box_outputs, *(outputs.quality_logits or ()))
    if not all(bool(values.isfinite().all()) for values in maps):
        raise InputError(
            f"{file}: its network gives infinity or what is not a number: the training diverged, or the file is "
            "damaged; use other weights, or train again with a lower --lr"
        )


def read_spec(file: Path) -> ModelSpec:
    """Read a ``model.json``.

    Raises:
        InputError: missing, broken, of a newer format, or without a key.
    """
    values = read_json(file)
    if not isinstance(values, dict) or "format" not in values:
        raise InputError(f"{file}: not a model of focaldet ('format' is missing)")
    if values["format"] != FORMAT:
        raise InputError(
            f"{file}: format {values['format']}, written by focaldet {values.get('focaldet', '?')}; this focaldet "
            f"reads format {FORMAT}: install that version, or train again"
        )
    missing = sorted(SPEC_TYPES.keys() - values.keys())
    if missing:
        raise InputError(f"{file}: {missing[0]!r} is missing")
    try:
        return _spec(values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _spec(values: dict[str, Any]) -> ModelSpec:
    """What the values of a ``model.json`` say, each checked."""
    spec = {key: typed_value(key, values[key], kind) for key, kind in SPEC_TYPES.items()}
    check_ranges(spec)
    names, method = spec["class_names"], spec["method"]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names: expected at least one name, got {names!r}")
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; {near_name(method, METHODS)}")
    if method == "fcos":  # files that leave out defaults are of a time when this was one
        spec["method_options"].setdefault("distances", "exp")
    try:
        options = asdict(typed_dataclass(METHODS[method], spec["method_options"]))
    except InputError as error:
        raise InputError(f"method_options: {error}") from error
    groups: dict[str, Any] = {key: typed_dataclass(group, values.get(key, {})) for key, group in GROUPS.items()}
    ignored = typed_value("ignored_classes", values.get("ignored_classes", []), list)
    score = typed_value("evaluation_score", values.get("evaluation_score", EVALUATION_SCORE), float)
    spec |= {"class_names": tuple(names), "method_options": options}
    return ModelSpec(**spec, **groups, evaluation_score=score, ignored_classes=tuple(map(str, ignored)))


def save_model(run: Path, spec: ModelSpec, net: DenseDetector) -> None:
    """Write ``model.safetensors`` and ``model.json``, each whole or not at all."""
    with replacing(run / "model.safetensors") as beside:
        # Not save_file: its error on a full disk has no errno.
        beside.write_bytes(save({key: value.cpu().contiguous() for key, value in net.state_dict().items()}))
    write_json(run / "model.json", spec.to_json(net.strides))
