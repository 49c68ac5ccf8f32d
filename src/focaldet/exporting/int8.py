"""An export with 8-bit convolutions: labelled photos to choose the 8 bits by, and the AP that they cost."""

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
from focaldet.data import DataFolder, ImageRecord, read_folder
from focaldet.data.batching import DetectionDataset
from focaldet.data.truth import coco_truth
from focaldet.engine.detect import detect_records
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import as_trained
from focaldet.engine.splits import recorded_splits, with_recorded_splits
from focaldet.evaluation.average_precision import average_precision
from focaldet.exporting.graph import RawGraph, head_outputs
from focaldet.photos.images import read_photo
from focaldet.runtime.onnx_detector import onnx_session
from focaldet.runtime.results import named_limit
from focaldet.structures import HeadOutputs

PHOTOS = 128
"""Of the train split, that the ranges of the maps are taken from."""

TURNS = 15
"""Of either file, when they are timed."""

MAX_LOSS = 0.01
"""Of AP, that 8 bits may cost unless more is allowed."""

FLOAT_PARTS: dict[str, Callable[[str], bool]] = {
    "nothing": lambda weight: False,
    "the head's last convolutions": lambda weight: ".head." in weight and "_tower." not in weight,
    "the head": lambda weight: ".head." in weight,
}
"""What is kept in float32, by the names of the convolutions' weights. Each is tried when the one before it costs too
much AP."""


@dataclass(frozen=True)
class Int8:
    """What an export with 8 bits is made and judged by.

    Args:
        data: folder of labelled photos; the ranges of the maps are taken from its train split.
        split: which AP is measured on.
        most_loss: of AP, that 8 bits may cost.
        seed: of the choice of photos.
    """

    data: Path
    split: str = "val"
    most_loss: float = MAX_LOSS
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("ap_loss", self.most_loss, 0, 1)

    def folder(self, detector: Detector, run: Path, say: Callable[[str], None]) -> DataFolder:
        """The labelled photos, where their folder gives no splits in those of the run.

        Raises:
            InputError: they cannot be read, have none of the detector's classes, or one of the two splits is empty.
        """
        folder = read_folder(self.data)
        folder = as_trained(with_recorded_splits(folder, recorded_splits(run, folder)), detector, say)
        for needed in ("train", self.split):
            if not folder.splits.get(needed):
                raise InputError(f"{self.data}: no photo in split {needed!r}; it has {', '.join(folder.splits)}")
        return folder

    def photos(self, folder: DataFolder) -> list[ImageRecord]:
        """Those that the ranges are taken from."""
        records = folder.splits["train"]
        return random.Random(self.seed).sample(records, min(PHOTOS, len(records)))


def quantised(data: bytes, detector: Detector, folder: DataFolder, by: Int8, say: Callable[[str], None]) -> bytes:
    """An exported file with 8-bit convolutions.

    Args:
        data: the file in float32, which gives the head's maps (``RawGraph``, ``MeasuredGraph``).
        detector: the run that it is of.
        folder: the photos that ``by`` names.
        say: prints a line for the person who waits.

    Raises:
        InputError: AP falls by more than is allowed, whatever is kept in float32.
    """
    from focaldet.exporting.quantise import with_8_bits, without_maps

    most = named_limit(detector.spec.postprocess.max_detections)
    photos, split = by.photos(folder), f"AP{most} on {by.split} ({len(folder.splits[by.split])} photos)"
    before = after = file_ap(data, detector, folder, by.split)
    say(f"{split}: {before:.3f} in float32; {len(photos)} train photos tell the range of each map")
    for part, keeps in FLOAT_PARTS.items():
        made = with_8_bits(data, detector, photos, keeps)
        after = file_ap(made, detector, folder, by.split)
        say(f"{split}: {after:.3f} with 8 bits, {after - before:+.3f}; kept in float32: {part}")
        if before - after <= by.most_loss:
            made = without_maps(made, detector)
            say(speed_of(data, made, detector.spec.resize(read_photo(photos[0].path), detector.spec.size)[None]))
            return made
    raise InputError(
        f"8 bits cost {before - after:.3f} {split}, more than {by.most_loss}, even with the head kept in float32; "
        "nothing was written. Allow more with --ap-loss, or export without --int8"
    )


def file_ap(data: bytes, detector: Detector, folder: DataFolder, split: str) -> float:
    """AP of a file on a split, as ``focaldet eval`` measures that of a run.

    Raises:
        InputError: there is no object to measure it by.
    """
    dataset = DetectionDataset(folder.splits[split], detector.spec.transform)
    postprocess = detector.evaluation_postprocess()
    net: Any = MapsOf(data, detector)
    truth = coco_truth(dataset.records, folder.class_names)
    results = detect_records(net, postprocess, dataset)
    ap = average_precision(truth, results, max_detections=postprocess.config.max_detections).metrics["AP"]
    if ap is None:
        raise InputError(f"{folder.root}: no object in split {split!r}, by which AP could be measured")
    return ap


def speed_of(data: bytes, made: bytes, images: Any) -> str:
    """How long the file in float32 and that with 8 bits take on this machine, in words."""
    sessions = [onnx_session(file) for file in (data, made)]
    seconds: list[list[float]] = [[], []]
    for _ in range(TURNS):  # in turns: what else the machine does meanwhile hits both
        for session, times in zip(sessions, seconds, strict=True):
            begin = time.perf_counter()
            session.run(None, {"images": images})
            times.append(time.perf_counter() - begin)
    before, after = (1e3 * median(times) for times in seconds)
    line = f"a photo takes {before:.1f} ms in float32, {after:.1f} ms with 8 bits"
    return line if after < before else f"{line}: this network is better exported without --int8"


class MapsOf(nn.Module):
    """An exported file in the place of the network that it is of: from images to the head's maps."""

    def __init__(self, data: bytes, detector: Detector) -> None:
        super().__init__()
        self.session = onnx_session(data)
        self.names = RawGraph(detector.net).output_names
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))  # where evaluation asks for the device

    def forward(self, images: Tensor) -> HeadOutputs:
        """Of images ``(B, 3, H, W)``."""
        maps = self.session.run(self.names, {"images": images.permute(0, 2, 3, 1).contiguous().numpy()})
        return head_outputs(dict(zip(self.names, maps, strict=True)))
