"""Export with 8-bit convolutions: calibrate on labelled photos, and measure the loss of AP."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from focaldet.checks import InputError, check_range
from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.data.truth import coco_truth
from focaldet.data.verify import photo_problem
from focaldet.engine.detect_windows import detect_photos, photos_to_detect, room_of
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import as_trained
from focaldet.engine.splits import recorded_splits, with_recorded_splits
from focaldet.evaluation.average_precision import average_precision
from focaldet.exporting.graph import RawGraph, head_outputs
from focaldet.exporting.network_inputs import network_inputs
from focaldet.runtime.providers import onnx_session
from focaldet.runtime.results import named_limit
from focaldet.structures import HeadOutputs

PHOTOS = 128
"""Number of train photos used for calibration."""

TURNS = 15
"""Number of timed runs of each file."""

MAX_LOSS = 0.01
"""Default of the largest accepted drop in AP."""

FLOAT_PARTS: dict[str, Callable[[str], bool]] = {
    "nothing": lambda weight: False,
    "the head's last convolutions": lambda weight: ".head." in weight and "_tower." not in weight,
    "the head": lambda weight: ".head." in weight,
}
"""Parts kept in float32 -> whether they contain a convolution, given the name of its weight. Each entry is tried if the
one before costs too much AP."""


@dataclass(frozen=True)
class Int8:
    """Settings of an export with 8 bits.

    Args:
        data: folder of labelled photos; its train split is used for calibration.
        split: split on which AP is measured.
        most_loss: largest accepted drop in AP, 0 to 1.
        seed: random seed for choosing the calibration photos.
    """

    data: Path
    split: str = "val"
    most_loss: float = MAX_LOSS
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("ap_loss", self.most_loss, 0, 1)

    def folder(self, detector: Detector, run: Path, say: Callable[[str], None]) -> DataFolder:
        """Read the labelled photos, with the splits of the run if the folder has none of its own.

        Raises:
            InputError: the folder cannot be read, has none of the detector's classes, or one of both splits is empty.
        """
        folder = read_folder(self.data)
        folder = as_trained(with_recorded_splits(folder, recorded_splits(run, folder)), detector, say)
        for needed in ("train", self.split):
            if not folder.splits.get(needed):
                raise InputError(f"{self.data}: no photo in split {needed!r}; it has {', '.join(folder.splits)}")
        return folder

    def photos(self, folder: DataFolder, say: Callable[[str], None], *, windows: bool = False) -> list[ImageRecord]:
        """The calibration photos; unreadable ones are reported and left out.

        Args:
            windows: whether parts of the photos will be read, so that large ones can be used.

        Raises:
            InputError: none of them can be read.
        """
        records = folder.splits["train"]
        chosen = random.Random(self.seed).sample(records, min(PHOTOS, len(records)))
        problems = {record.path: photo_problem(record.path, windows=windows) for record in chosen}
        for problem in filter(None, problems.values()):
            say(f"{problem}; left out")
        if all(problems.values()):
            raise InputError(f"{self.data}: none of the train photos chosen for --int8 can be read")
        return [record for record in chosen if not problems[record.path]]


def quantised(data: bytes, detector: Detector, folder: DataFolder, by: Int8, say: Callable[[str], None]) -> bytes:
    """Convert an exported file to 8-bit convolutions.

    Args:
        data: the float32 file, which outputs the raw maps (``RawGraph``, ``MeasuredGraph``).
        detector: the exported run.
        folder: the photos, from ``by.folder``.
        by: settings.
        say: prints a progress line.

    Raises:
        InputError: AP drops by more than accepted, even with the head in float32.
    """
    from focaldet.exporting.quantise import with_8_bits, without_maps

    windows = detector.tiling is not None  # then all detections count
    most = "" if windows else named_limit(detector.spec.postprocess.max_detections)
    photos = by.photos(folder, say, windows=windows)
    split = f"AP{most} on {by.split} ({len(folder.splits[by.split])} photos)"
    before = after = file_ap(data, detector, folder, by.split)
    say(f"{split}: {before:.3f} in float32; calibrating on {'windows of ' * windows}{len(photos)} train photos")
    for part, keeps in FLOAT_PARTS.items():
        made = with_8_bits(data, detector, photos, keeps)
        after = file_ap(made, detector, folder, by.split)
        say(f"{split}: {after:.3f} with 8 bits, {after - before:+.3f}; kept in float32: {part}")
        if before - after <= by.most_loss:
            made = without_maps(made, detector)
            say(speed_of(data, made, next(network_inputs(photos, detector))[None]))
            return made
    raise InputError(
        f"8 bits cost {before - after:.3f} {split}, more than {by.most_loss}, even with the head kept in float32; "
        "nothing was written. Allow more with --ap-loss, or export without --int8"
    )


def file_ap(data: bytes, detector: Detector, folder: DataFolder, split: str) -> float:
    """AP of a file on a split, measured as ``focaldet eval`` does for a run.

    Raises:
        InputError: the split has no objects.
    """
    net: Any = MapsOf(data, detector)
    measured = Detector(detector.spec, net, detector.method, tiling=detector.tiling)
    dataset = photos_to_detect(folder.splits[split], detector.tiling is not None, detector.spec.transform)
    truth = coco_truth(dataset.records, folder.class_names)
    results = detect_photos(measured, dataset)
    ap = average_precision(truth, results, max_detections=room_of(measured, results)).metrics["AP"]
    if ap is None:
        raise InputError(f"{folder.root}: no object in split {split!r}, so AP cannot be measured")
    return ap


def speed_of(data: bytes, made: bytes, images: Any) -> str:
    """A line with the time per photo of the float32 and the 8-bit file on this machine."""
    sessions = [onnx_session(file) for file in (data, made)]
    seconds: list[list[float]] = [[], []]
    for _ in range(TURNS):  # in turns, so that other load on the machine affects both
        for session, times in zip(sessions, seconds, strict=True):
            begin = time.perf_counter()
            session.run(None, {"images": images})
            times.append(time.perf_counter() - begin)
    before, after = (1e3 * median(times) for times in seconds)
    line = f"a photo takes {before:.1f} ms in float32, {after:.1f} ms with 8 bits"
    return line if after < before else f"{line}: this network is better exported without --int8"


class MapsOf(nn.Module):
    """An exported file used like the network: from images to the raw maps of the head."""

    def __init__(self, data: bytes, detector: Detector) -> None:
        super().__init__()
        self.session = onnx_session(data)
        self.names = RawGraph(detector.net).output_names
        self.strides = detector.net.strides
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))  # evaluation reads the device from it

    def forward(self, images: Tensor) -> HeadOutputs:
        """Images ``(B, 3, H, W)`` to raw maps."""
        maps = self.session.run(self.names, {"images": images.permute(0, 2, 3, 1).contiguous().numpy()})
        return head_outputs(dict(zip(self.names, maps, strict=True)))
