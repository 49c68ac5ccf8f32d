"""Options that several commands share."""

from typing import Literal

from focaldet.options import Parser

DEVICE_NAMES = "auto|cpu|cuda[:N]|mps"

DEVICE_HELP = "device for a run's network; auto: the first CUDA GPU, else the CPU (default: auto)"

PROVIDER_HELP = "onnxruntime provider for an exported model; auto: the best that is installed (default: auto)"

OPENVINO_HELP = "short for --provider openvino; several times as fast on a CPU with bfloat16"

TILE_HELP = (
    "detect in windows of the photo at its own resolution, with this side in pixels; 0: in the whole photo (default: "
    "as the model was trained)"
)

OVERLAP_HELP = (
    "with windows: overlap of neighbours, as a fraction of the side or in whole pixels (default: the size of the "
    "largest training objects, or a quarter)"
)

MAX_DETECTIONS_HELP = "maximum number of detections per photo (default: the model's own limit)"


def add_windows(command: Parser) -> None:
    """Add the options of commands that can detect in windows."""
    command.add("--tile", int, help=TILE_HELP)
    command.add("--overlap", float, help=OVERLAP_HELP)


def add_selection(command: Parser) -> None:
    """Add the options of commands that choose boxes by their scores."""
    command.add(
        "--score",
        str,
        help="confidence threshold, precision=0.95 or recall=0.9; or by class: RBC=0.4,WBC=precision=0.95 "
        "(default: the threshold with the best F1 for each class; 0.3 for a model without a calibration)",
    )
    command.add(
        "--coverage", float, metavar="SHARE", help="add bands that contain the whole true box for this share of objects"
    )
    command.add("--calibrated", bool, default=True, help="calibrated scores; --no-calibrated: the network's own scores")


def add_place(command: Parser) -> None:
    """Add the options of commands that run a model of either kind."""
    providers = Literal["auto", "cpu", "cuda", "tensorrt", "coreml", "directml", "openvino"]
    command.add("--provider", providers, default="auto", help=PROVIDER_HELP)
    command.add("--openvino", bool, default=False, help=OPENVINO_HELP)
    command.add("--device", str, metavar=DEVICE_NAMES, default="auto", help=DEVICE_HELP)
