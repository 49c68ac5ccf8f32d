"""Training from Python, and everything that can be done with a run."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError, near_name
from focaldet.commands import train_config
from focaldet.engine.hub import check_local, local_run
from focaldet.engine.load import load_selected
from focaldet.files import read_json
from focaldet.photos.images import as_photo
from focaldet.records.calibration import Calibration
from focaldet.records.run_files import mapping, metric, read_file
from focaldet.runtime.card import Outputs
from focaldet.runtime.model import Model
from focaldet.runtime.prediction import Prediction
from focaldet.runtime.selection import ScoreChoices, Selection
from focaldet.runtime.window_stream import look_at

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from focaldet.engine.config import TrainConfig
    from focaldet.engine.detector import Detector
    from focaldet.exporting.export import Format

Photo = str | Path | Image.Image | NDArray[np.uint8]


def train(*, callbacks: Sequence["Callback"] = (), say: Callable[[str], None] = print, **options: Any) -> "Run":
    """Train a detector on a folder of labelled photos, as ``focaldet train`` does.

    Args:
        callbacks: Lightning callbacks, called after the run's own. To end the training early, set
            ``trainer.should_stop``.
        say: prints a line.
        options: the options of ``focaldet train`` with underscores (docs/options.md): data, method, preset, minutes, ….

    Returns:
        The run, with its best weights on the val split.

    Raises:
        InputError: an option is unknown, a value does not fit, or the data cannot be used.

    >>> run = train(data="photos", minutes=10)  # doctest: +SKIP
    """
    from focaldet.engine.config import TrainConfig
    from focaldet.engine.train import train

    known = ["config", "preset", *(field.name for field in fields(TrainConfig))]
    for name in options:
        if name not in known:
            raise InputError(f"train: unknown option {name!r}; {near_name(name, known)}")
    if options.get("config") is not None:
        options["config"] = Path(options["config"])
    return Run(train(train_config(**options), callbacks=callbacks, say=say))


class Run:
    """A run folder, written by ``focaldet.train``, the command line or ``focaldet import``.

    Args:
        path: the folder, or ``hf:OWNER/NAME`` for a run on the hub, which can be read but not measured.

    Raises:
        InputError: the folder does not exist or has no model.
    """

    def __init__(self, path: str | Path) -> None:
        self._named = path
        self.path = local_run(path)
        if not self.path.is_dir():
            raise InputError(f"{path}: no such run folder")
        model = read_json(self.path / "model.json")
        names = mapping(model).get("class_names")
        if not isinstance(names, list):
            raise InputError(f"{self.path / 'model.json'}: not a model of focaldet ('class_names' is missing)")
        self.class_names = tuple(str(name) for name in names)
        self._models: dict[tuple[Any, ...], tuple[Model, Selection]] = {}

    def __repr__(self) -> str:
        ap = metric(mapping(self.evaluation.get("metrics")).get("AP"))
        measured = "" if ap is None else f", {self.evaluation.get('split')} AP {ap:.3f}"
        return f"Run({str(self.path)!r}: {len(self.class_names)} classes{measured})"

    @property
    def config(self) -> "TrainConfig":
        """The settings it was trained with.

        Raises:
            InputError: the run was not trained here.
        """
        from focaldet.engine.config import load_config

        return load_config(self.path / "config.yaml")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One mapping per epoch: losses, learning rate, and AP on val if measured."""
        return read_file(self.path / "metrics.jsonl", "", []) or []

    @property
    def evaluation(self) -> dict[str, Any]:
        """The last evaluation: ``metrics`` (AP, AP50, …), ``per_class`` and the measured photos; empty without one."""
        return mapping(read_file(self.path / "evaluation.json", "", []))

    def evaluate(
        self,
        data: str | Path | None = None,
        split: str | None = None,
        *,
        max_detections: int | None = None,
        tile: int | None = None,
        overlap: float | None = None,
        device: str = "auto",
        say: Callable[[str], None] = print,
    ) -> dict[str, Any]:
        """Measure AP on labelled photos, as ``focaldet eval`` does. Prints the table and returns ``evaluation``.

        Args:
            data: folder of labelled photos; by default the one it was trained on.
            split: train, val or test; by default test, or val if there is no test.
            max_detections: largest number of detections per photo; by default the run's own limit.
            tile, overlap: windows in which to detect; by default as trained (docs/large-photos.md).
            device: where the network runs.
            say: prints a line.

        Raises:
            InputError: the folder has no labelled photos, or none of the run's classes.
        """
        from focaldet.engine.evaluate import evaluate_run

        check_local(self._named, "evaluate")
        options: dict[str, Any] = {"max_detections": max_detections, "tile": tile, "overlap": overlap, "device": device}
        return evaluate_run(self.path, self._data(data), split, **options, say=say)

    def calibrate(
        self, data: str | Path | None = None, split: str = "val", *, say: Callable[[str], None] = print
    ) -> Calibration:
        """Measure how reliable scores and sides are on other photos, as ``focaldet calibrate`` does.

        ``train`` does it on the val split. Arguments as in ``evaluate``.
        """
        from focaldet.engine.calibrate import calibrate_run

        check_local(self._named, "calibrate")
        calibration = calibrate_run(self.path, self._data(data), split, say=say)
        self._models.clear()
        return calibration

    @overload
    def predict(
        self,
        photos: Photo,
        *,
        score: float | str | None = ...,
        coverage: float | None = ...,
        max_detections: int | None = ...,
        tile: int | None = ...,
        overlap: float | None = ...,
        calibrated: bool = ...,
        device: str = ...,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        photos: list[Any] | tuple[Any, ...],
        *,
        score: float | str | None = ...,
        coverage: float | None = ...,
        max_detections: int | None = ...,
        tile: int | None = ...,
        overlap: float | None = ...,
        calibrated: bool = ...,
        device: str = ...,
    ) -> list[Prediction]: ...

    def predict(
        self,
        photos: Photo | list[Any] | tuple[Any, ...],
        *,
        score: float | str | None = None,
        coverage: float | None = None,
        max_detections: int | None = None,
        tile: int | None = None,
        overlap: float | None = None,
        calibrated: bool = True,
        device: str = "auto",
    ) -> Prediction | list[Prediction]:
        """Detect the objects in a photo, or in each of several.

        Args:
            photos: a file, a PIL image or an ``(H, W, 3)`` uint8 RGB array, or a list of them.
            score: confidence threshold, ``"precision=0.95"`` or ``"recall=0.9"``, or such values by class:
                ``"RBC=0.4,WBC=recall=0.9"``; by default the threshold with the best F1
                of each class, or 0.3 without a calibration.
            coverage: add bands that contain the whole true box of this share of objects.
            max_detections: largest number of detections per photo; by default the run's own limit.
            tile, overlap: windows in which to detect; by default as trained (docs/large-photos.md).
            calibrated: return calibrated scores, if the run has a calibration.
            device: where the network runs.

        Raises:
            InputError: a photo cannot be read, or the run cannot keep the promise of ``score`` or ``coverage``.
        """
        key = (score, coverage, max_detections, tile, overlap, calibrated, device)
        if key not in self._models:
            options: dict[str, Any] = {"max_detections": max_detections, "calibrated": calibrated, "device": device}
            options |= {"tile": tile, "overlap": overlap}
            choices = ScoreChoices.parse(None if score is None else str(score))
            self._models[key] = load_selected(self.path, choices, coverage=coverage, **options)
        model, select = self._models[key]

        def look(photo: NDArray[np.uint8]) -> Prediction:
            if model.tiling is None:
                (found,) = model.detect([model.prepare(photo)])
            else:
                found = look_at(model, photo, model.tiling)
            return Prediction(photo, select(found, (photo.shape[0], photo.shape[1])), self.class_names, coverage)

        if isinstance(photos, str | Path | Image.Image | np.ndarray):
            return look(as_photo(photos))
        return [look(as_photo(photo)) for photo in photos]

    def detector(self, **options: Any) -> "Detector":
        """The detector itself, with options as in ``Detector.load``."""
        from focaldet.engine.detector import Detector

        return Detector.load(self.path, **options)

    def export(
        self,
        out: str | Path | None = None,
        *,
        format: "Format" = "onnx",
        outputs: Outputs = "detections",
        max_detections: int | None = None,
        int8: str | Path | None = None,
        say: Callable[[str], None] = print,
    ) -> Path:
        """Write one file that needs no training code, as ``focaldet export`` does. Returns its path.

        Args:
            out: the file; by default ``model.onnx`` in the run.
            format: onnx, or torch for a torch.export program.
            outputs: detections, sites for boxes without NMS, or raw for the head's maps.
            max_detections: largest number of detections per photo; by default the run's own limit.
            int8: folder of labelled photos, to quantise the convolutions to 8 bits.
            say: prints a line.

        Raises:
            InputError: the network cannot be exported, or 8 bits cost too much AP.
        """
        from focaldet.exporting.export import export_run
        from focaldet.exporting.int8 import Int8

        return export_run(
            Path(self._named),
            None if out is None else Path(out),
            format=format,
            outputs=outputs,
            max_detections=max_detections,
            int8=None if int8 is None else Int8(Path(int8)),
            say=say,
        )

    def report(self, out: str | Path | None = None, *, beside: Sequence["Run"] = ()) -> Path:
        """Write the page of the run, or one that compares it with others. Returns its path.

        Args:
            out: the page; by default ``report.html`` in the run.
            beside: other runs to compare with.
        """
        from focaldet.report import write_report

        if out is None:
            check_local(self._named, "report")
        paths = [self.path, *(run.path for run in beside)]
        return write_report(paths, None if out is None else Path(out))

    def push(
        self,
        repository: str,
        *,
        private: bool = False,
        licence: str | None = None,
        say: Callable[[str], None] = print,
    ) -> str:
        """Upload the model to the Hugging Face hub with a card, as ``focaldet push`` does. Returns OWNER/NAME.

        Args:
            repository: OWNER/NAME; created if it does not exist.
            private: create a private repository.
            licence: licence of the weights, in the hub's abbreviation: apache-2.0, cc-by-4.0, ….
            say: prints a line.

        Raises:
            InputError: the hub rejects it.
        """
        from focaldet.report.push import push_run

        return push_run(self.path, repository, private=private, licence=licence, say=say)

    def _data(self, data: str | Path | None) -> Path:
        if data is not None:
            return Path(data)
        if not (self.path / "config.yaml").exists():
            raise InputError(f"{self.path}: was not trained here; pass a folder of labelled photos as data")
        return Path(self.config.data)
