"""Loading a detector from a path; torch is only imported for a run folder."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from focaldet.checks import InputError
from focaldet.engine.hub import local_run
from focaldet.runtime.model import Model
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.runtime.selection import ScoreChoices, Selection, select
from focaldet.runtime.shift import ShiftCheck

_BELOW_ONE = 1 - 1e-6  # a detector's threshold is below 1


def load_model(
    path: Path,
    *,
    score: float | None = None,
    max_detections: int | None = None,
    threads: int | None = None,
    provider: str = "auto",
    calibrated: bool = True,
    device: str = "auto",
    tile: int | None = None,
    overlap: float | None = None,
) -> Model:
    """Load the detector of a run folder, also ``hf:OWNER/NAME``, or an exported ONNX file.

    Args:
        score: score threshold of a run's detector; ``None``: its own. It must not be below the built-in threshold of an
            exported model.
        max_detections: limit per photo; ``None``: the model's own, which an exported model cannot exceed.
        threads, provider: for an exported model, see ``OnnxDetector.load``.
        calibrated: give calibrated scores if the model has a calibration.
        device: device of a run's network, see ``choose_device``; an exported model has a provider instead.
        tile, overlap: windows in which to detect, see ``tiling_for``; ``None``: as trained.

    Raises:
        InputError: the path is neither, the model is damaged, ``score`` is below the exported threshold, or the device
            or the provider is missing.
    """
    path = local_run(path)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if is_file:
        if path.suffix != ".onnx" and (path.parent / "model.json").is_file():
            raise InputError(f"{path}: this file belongs to a run; give the folder, {path.parent}")
        if device not in ("auto", "cpu"):
            raise InputError(f"--device {device}: needs a run folder; for the exported model {path}, use --provider")
        provider = "cpu" if device == "cpu" and provider == "auto" else provider
        model = OnnxDetector.load(
            path,
            max_detections=max_detections,
            threads=threads,
            provider=provider,
            calibrated=calibrated,
            tile=tile,
            overlap=overlap,
        )
        least = model.card.score_threshold
        if score is not None and not least <= score < 1:
            raise InputError(
                f"score: expected a number in [{least:g}, 1), got {score}; {path} was exported with score threshold "
                f"{least:g}"
            )
        return model
    if not is_folder:
        raise InputError(f"{path}: no such run folder or exported file")
    if provider not in ("auto", "cpu"):
        raise InputError(
            f"{path}: --provider {provider} needs an exported model; make one with: focaldet export {path}"
        )
    from focaldet.engine.detector import Detector

    return Detector.load(
        path,
        score_threshold=score,
        max_detections=max_detections,
        calibrated=calibrated,
        device=device,
        tile=tile,
        overlap=overlap,
    )


def load_selected(
    path: Path,
    choices: ScoreChoices | None,
    *,
    coverage: float | None = None,
    lower_only: bool = False,
    **options: Any,
) -> tuple[Model, Selection]:
    """Load a detector with a threshold low enough for ``--score``, and the selection of its detections.

    Args:
        choices, coverage: see ``select``.
        lower_only: never raise the model's own score threshold.
        options: see ``load_model``.

    Raises:
        InputError: as ``load_model`` and ``select``, or the choice needs detections below the threshold of an exported
            model.
    """
    model = load_model(path, **options)
    choices = choices or ScoreChoices()
    selection = select(choices, model.certainty, model.class_names, coverage=coverage)
    if place := _place(model):
        selection = replace(selection, notes=(place, *selection.notes))
    if not isinstance(model, OnnxDetector):
        from focaldet.engine.detector import Detector

        assert isinstance(model, Detector)
        most = model.postprocess.config.score_threshold if lower_only else _BELOW_ONE
        return model.with_score_threshold(min(selection.needed, most)), selection
    _check_looks_low_enough(path, model, choices, selection)
    return model, selection


def _check_looks_low_enough(path: Path, model: OnnxDetector, choices: ScoreChoices, selection: Selection) -> None:
    """Raise InputError if a choice needs detections below the threshold of an exported model."""
    names, least = model.class_names, model.card.score_threshold
    shared = [label for label, name in enumerate(names) if name not in choices.of_class]
    for labels in [shared, *([names.index(name)] for name in choices.of_class)]:
        choice = choices.of(names[labels[0]]) if labels else None
        if choice is None:
            continue
        if choice.kind == "score":
            from_here = least
            if model.certainty is not None:
                from_here = math.ceil(1000 * float(model.certainty.chances([least] * len(labels), labels).max())) / 1000
            if choice.value < from_here:
                raise InputError(
                    f"score: expected a number in [{from_here:g}, 1), got {choice.value:g}; {path} was "
                    f"exported with score threshold {least:g}"
                )
        elif (needed := float(selection.least_raw[labels].min())) < least - 2e-5:  # because of rounding
            raise InputError(
                f"--score {choice}: needs detections with scores from {needed:.3f}, but {path} was exported with "
                f"score threshold {least:g}; use the run folder instead"
            )


def with_shift_check(path: Path, model: Model) -> tuple[Model, ShiftCheck]:
    """Lower a detector's threshold as far as ``--check-shift`` needs, and create the check.

    Raises:
        InputError: the model has no calibration, or one without a sample of its photos.
    """
    if model.certainty is None:
        raise InputError(f"--check-shift: {path} has no calibration; make one: focaldet calibrate RUN --data DIR")
    calibration = model.certainty.calibration
    if isinstance(model, OnnxDetector):
        return model, ShiftCheck(calibration, model.card.score_threshold)
    check = ShiftCheck(calibration)
    return looking_down_to(model, check.needed), check


def looking_down_to(model: Model, score: float) -> Model:
    """The detector with a threshold of at most this score; an exported model keeps its own."""
    if isinstance(model, OnnxDetector):
        return model
    from focaldet.engine.detector import Detector

    assert isinstance(model, Detector)
    return model.with_score_threshold(min(score, model.postprocess.config.score_threshold))


def _place(model: Model) -> str:
    """The device or provider that computes a model, if not the CPU."""
    if isinstance(model, OnnxDetector):
        return f"computed by onnxruntime with {model.provider}" if model.provider else ""
    from focaldet.engine.detector import Detector
    from focaldet.engine.devices import describe_device

    assert isinstance(model, Detector)
    return "" if model.device.type == "cpu" else f"computed on {describe_device(model.device)}"
