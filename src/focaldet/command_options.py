"""Options shared by several commands, and the options of ``focaldet data``."""

from pathlib import Path
from typing import Literal

from focaldet.options import Parser

DEVICE_NAMES = "auto|cpu|cuda[:N]|mps"

DEVICE_HELP = (
    "device; auto: the first CUDA GPU, else Apple's if a trial step succeeds on it, else the CPU (default: auto)"
)

PROVIDER_HELP = "onnxruntime provider for an exported model; auto: the best one installed (default: auto)"

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


def add_data(command: Parser) -> None:
    """Add the options of ``focaldet data``."""
    actions = Literal["check", "convert", "show", "suspects"]
    command.add(
        "action",
        actions,
        metavar="check|convert|show|suspects",
        help="list faults and count boxes, write a clean copy of the folder, draw photos as training sees them, or "
        "find labels contradicted by a model that has not seen their photos",
    )
    command.add(
        "data",
        Path,
        metavar="DIR",
        nargs="+",
        help="folder of labelled photos; suspects: a run of focaldet train, for its configuration, and the folder",
    )
    command.add(
        "--size",
        int,
        metavar="PX",
        default=320,
        help="check and show: longer side of the image that the network will see, in pixels (default: 320)",
    )
    command.add("--ignore", str, metavar="NAMES", help="classes that train will ignore, separated by commas")
    command.add(
        "--to",
        Literal["coco", "yolo", "voc", "labelme"],
        default="coco",
        help="convert: output format (default: coco)",
    )
    command.add(
        "--out",
        Path,
        metavar="NEW",
        help="convert: folder to create; show: PNG file (default: augmented.png); suspects: folder; an unfinished "
        "one is continued (default: suspects/<name of the data>)",
    )
    command.add("--copy", bool, default=False, help="convert: copy the photos (default: link them if possible)")
    command.add(
        "--rescale", bool, default=False, help="scale the boxes if the labels state a different size from the photo's"
    )
    command.add("--photos", int, default=4, help="show: number of photos (default: 4)")
    for name, default in (("augment", "light"), ("flips", "horizontal"), ("transform", None), ("seed", 0)):
        kind = int if name == "seed" else str
        command.add(f"--{name}", kind, default=default, help=f"show: as in train (default: {default or 'none'})")
    command.add("--folds", int, default=5, help="suspects: parts of the photos, each judged by the others (default: 5)")
    command.add("--epochs", int, help="suspects: passes over the photos of each training (default: as in the run)")
    command.add("--minutes", float, metavar="MIN", help="suspects: minutes of each training (default: as in the run)")
