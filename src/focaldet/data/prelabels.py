"""Detections as labels to correct in CVAT, Label Studio or LabelMe, with a list of photos, the least certain first."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.data.convert import Layout, convert_folder
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.files import write_text
from focaldet.runtime.cameras import Camera
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.video import VIDEO_SUFFIXES

FOLDER, LIST = "labels", "doubts.csv"

LEAST_SIDE_PX = 0.01
"""Narrower boxes are left out, because their corners are equal after rounding."""


class PreLabels:
    """Collects the detections of photos, and writes them as labels.

    Args:
        out: folder of the predictions; gets ``labels`` and ``doubts.csv``.
        layout: format of the labels.
        class_names: name of each label.
        least: ``(C,)`` lowest score of a detection that becomes a label.

    Raises:
        InputError: the folder already has labels.
    """

    def __init__(self, out: Path, layout: Layout, class_names: Sequence[str], least: Sequence[float]) -> None:
        self.folder, self.list, self.layout = out / FOLDER, out / LIST, layout
        self.class_names, self.least = tuple(class_names), np.array(least)
        self.records: list[ImageRecord] = []
        self.rows: list[tuple[float, str, int, int, float, float]] = []
        if self.folder.exists():
            raise InputError(
                f"--labels: {self.folder} already exists, and its labels may have been corrected; choose another "
                "--out, or move that folder away"
            )

    def add(self, photo: Path, size: tuple[int, int], everything: DetectionArrays, chosen: DetectionArrays) -> None:
        """Add a photo.

        Args:
            size: (width, height).
            everything: all its detections.
            chosen: the detections that become labels.
        """
        boxes = chosen.boxes_xyxy.clip(0, np.array([*size, *size], np.float32))
        whole = ((boxes[:, 2:] - boxes[:, :2]) > LEAST_SIDE_PX).all(axis=1)
        self.records.append(
            ImageRecord(
                path=photo,
                file_name=photo.as_posix(),
                image_id=len(self.records) + 1,
                width=size[0],
                height=size[1],
                boxes_xyxy=boxes[whole],
                labels=chosen.labels[whole],
                ignored=np.zeros(int(whole.sum()), bool),
            )
        )
        doubt = doubts(everything, self.least)
        margin, deviation = margins(chosen, self.least), relative_deviations(chosen)
        self.rows.append(
            (
                float(doubt.sum()),
                str(photo),
                len(chosen),
                int((doubt > 0.5).sum()),
                float(margin.min(initial=1.0)),
                float(deviation.max(initial=0.0)),
            )
        )

    def write(self) -> None:
        """Write the labels with links to the photos, and the list of photos. Without photos, write nothing.

        Raises:
            InputError: the folder cannot be written.
        """
        if not self.records:
            return
        folder = DataFolder(
            root=self.folder,
            layout=self.layout,
            class_names=self.class_names,
            splits={"train": tuple(self.records)},
            split_origin="",
            description="detections",
            faults=(),
        )
        convert_folder(folder, self.folder, self.layout)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("photo", "doubt", "boxes", "doubtful", "least_margin", "widest_deviation"))
        for doubt, photo, boxes, doubtful, margin, deviation in sorted(self.rows, key=lambda row: (-row[0], row[1])):
            table.writerow((photo, f"{doubt:.3f}", boxes, doubtful, f"{margin:.3f}", f"{deviation:.3f}"))
        write_text(self.list, text.getvalue())


def doubts(found: DetectionArrays, least: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N,)`` how doubtful each detection is, from 0 to 1.

    A score at the threshold has doubt 1. Doubt falls to 0 towards a score of 1, and towards half the threshold, where
    the box is certainly left out. Above the threshold, the largest relative standard deviation of a box is also a
    doubt; the larger of both counts.

    Args:
        found: all detections of a photo.
        least: ``(C,)`` threshold of each class.

    >>> boxes, labels = np.array([[0, 0, 10, 10]] * 4, np.float32), np.zeros(4, np.int64)
    >>> found = DetectionArrays(boxes, np.array([1.0, 0.7, 0.3, 0.2], np.float32), labels, None)
    >>> doubts(found, np.array([0.4])).round(3).tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    threshold = least[found.labels].clip(1e-6)  # above 1 for a class that is left out
    scores = found.scores.astype(np.float64)
    above = scores >= threshold
    reach = np.where(above, 1 - threshold, threshold / 2).clip(1e-6)
    doubt = (1 - np.abs(scores - threshold) / reach).clip(0, 1)
    doubt = np.where(above, np.maximum(doubt, relative_deviations(found).clip(0, 1)), doubt)
    result: NDArray[np.float64] = np.where(threshold > 1, 0.0, doubt)
    return result


def margins(found: DetectionArrays, least: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N,)`` distance of each score from the threshold of its class."""
    distance: NDArray[np.float64] = np.abs(found.scores.astype(np.float64) - least[found.labels])
    return distance


def relative_deviations(found: DetectionArrays) -> NDArray[np.float64]:
    """``(N,)`` the largest standard deviation of a side, relative to the length of the box across it; 0 if none."""
    if found.side_std_px is None:
        return np.zeros(len(found))
    lengths = (found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).clip(1).astype(np.float64)
    relative: NDArray[np.float64] = (found.side_std_px / np.tile(lengths, 2)).max(axis=1)
    return relative


def check_photos(paths: Sequence[Path], cameras: Sequence[Camera]) -> None:
    """Raise InputError for a video or a camera, which have no label files."""
    if cameras:
        raise InputError(f"--labels: {cameras[0].name} is a camera; give photos")
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise InputError(f"--labels: {path} is a video; give photos, such as frames of it")
