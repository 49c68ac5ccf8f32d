"""A detector by its path. torch is imported only when it is a run folder."""

from pathlib import Path

from focaldet.checks import InputError
from focaldet.runtime.model import Model
from focaldet.runtime.onnx_detector import OnnxDetector


def load_model(path: Path, *, score: float | None = None) -> Model:
    """The detector of a run folder, or an exported one (ONNX).

    Args:
        score: least score that a run's detector looks at; ``None``: its own. An exported one has it built in.

    Raises:
        InputError: it is neither, or broken.
    """
    if path.is_file():
        return OnnxDetector.load(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder or exported file")
    from focaldet.engine.predict import Detector

    return Detector.load(path, score_threshold=score)
