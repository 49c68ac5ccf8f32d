"""A detector by its path. torch is imported only when it is a run folder."""

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
    """The detector of a run folder, or an exported one (ONNX).

    Args:
        score: least score that a run's detector looks at; ``None``: its own. An exported one has it built in.
        max_detections: of a photo; ``None``: the model's own. An exported one has no room for more.
        threads, openvino: of an exported one, see ``OnnxDetector.load``.
        device: of a run's network, see ``choose_device``. onnxruntime computes an exported one on the CPU.

    Raises:
        InputError: it is neither, or broken, or an exported one that looks at nothing with so small a score, or there
            is no OpenVINO.
    """
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be looked at ({error.strerror})") from error
    if is_file:
        if path.suffix != ".onnx" and (path.parent / "model.json").is_file():
            raise InputError(f"{path}: a file of a run; give its folder, {path.parent}")
        if device not in ("auto", "cpu"):
            raise InputError(f"--device {device}: is for run folders; {path} is computed by onnxruntime on the CPU")
        model = OnnxDetector.load(path, max_detections=max_detections, threads=threads, openvino=openvino)
        least = model.card.score_threshold
        if score is not None and not least <= score < 1:
            raise InputError(f"score: expected a number in [{least:g}, 1), got {score}; {path} looks at nothing below")
        return model
    if not is_folder:
        raise InputError(f"{path}: no such run folder or exported file")
    if openvino:
        raise InputError(f"{path}: --openvino is for exported models; make one: focaldet export {path}")
    from focaldet.engine.detector import Detector

    return Detector.load(path, score_threshold=score, max_detections=max_detections, device=device)
