"""Loading a detector from a path; torch is only imported for a run folder."""

from pathlib import Path

from focaldet.checks import InputError
from focaldet.runtime.model import Model
from focaldet.runtime.onnx_detector import OnnxDetector


def load_model(
    path: Path,
    *,
    score: float | None = None,
    max_detections: int | None = None,
    threads: int | None = None,
    openvino: bool = False,
    device: str = "auto",
) -> Model:
    """Load the detector of a run folder, or an exported ONNX file.

    Args:
        score: score threshold of a run's detector; ``None``: its own. An exported model has a built-in threshold, and
            this one must not be lower.
        max_detections: limit per photo; ``None``: the model's own, which an exported model cannot exceed.
        threads, openvino: for an exported model, see ``OnnxDetector.load``.
        device: device of a run's network, see ``choose_device``; an exported model runs on the CPU.

    Raises:
        InputError: the path is neither, the model is damaged, ``score`` is below the exported threshold, or OpenVINO
            is not installed.
    """
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if is_file:
        if path.suffix != ".onnx" and (path.parent / "model.json").is_file():
            raise InputError(f"{path}: this file belongs to a run; give the folder, {path.parent}")
        if device not in ("auto", "cpu"):
            raise InputError(f"--device {device}: needs a run folder; the exported model {path} runs on the CPU")
        model = OnnxDetector.load(path, max_detections=max_detections, threads=threads, openvino=openvino)
        least = model.card.score_threshold
        if score is not None and not least <= score < 1:
            raise InputError(
                f"score: expected a number in [{least:g}, 1), got {score}; {path} was exported with score threshold "
                f"{least:g}"
            )
        return model
    if not is_folder:
        raise InputError(f"{path}: no such run folder or exported file")
    if openvino:
        raise InputError(f"{path}: --openvino needs an exported model; make one with: focaldet export {path}")
    from focaldet.engine.detector import Detector

    return Detector.load(path, score_threshold=score, max_detections=max_detections, device=device)
