"""Check a folder of labelled photos before training on it.

Axes: N objects of a split, L levels of the pyramid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.data.ignore import ignored_regions
from focaldet.data.object_sizes import (
    median_seen,
    median_sides,
    sides_seen,
    size_difference,
    small_classes_line,
    suggests_tile,
    too_large_without_tile,
)
from focaldet.data.parallel import each
from focaldet.data.rare import class_factors
from focaldet.data.records import DataFolder, Fault, ImageRecord
from focaldet.files import open_regular
from focaldet.photos.depth import FULL, depth_note
from focaldet.photos.images import no_size_warnings
from focaldet.photos.regions import decode_to_the_end
from focaldet.system.progress import Progress

MIN_SIZE = 32
"""Smallest longer side of a detector's input in pixels: one location of stride 32."""

ANCHOR_SCALE = 8
"""Side of the ATSS anchor of a level, in strides. https://arxiv.org/abs/1912.02424"""

_MAX_LISTED = 20
"""Number of classes that a table shows before it is cut."""


@dataclass(frozen=True, eq=False)
class DataReport:
    """The result of ``check_folder``; ``text`` is the report for people.

    Args:
        folder: the folder that was checked.
        size: longer side in pixels to which training scales images.
        strides: L strides of the pyramid.
        images: split -> number of images.
        images_without_objects: split -> number of images.
        boxes: split -> ``(C,)`` objects by class.
        ignored: split -> number of ignored regions.
        level_counts: ``(L,)`` objects per level, by the level whose anchor is nearest in size.
        beyond_reach: objects with a side that no distribution of their level reaches from the object's centre.
        median_side_px: median √area of objects at that size, or NaN without objects.
        faults: faults of the folder, including those found by decoding and comparing the files.
        notes: other findings from decoding, a sentence each.
    """

    folder: DataFolder
    size: int
    strides: tuple[int, ...]
    images: dict[str, int]
    images_without_objects: dict[str, int]
    boxes: dict[str, NDArray[np.int64]]
    ignored: dict[str, int]
    level_counts: NDArray[np.int64]
    beyond_reach: int
    median_side_px: float
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    @property
    def imbalance(self) -> float:
        """Ratio of the number of objects between the most and the least frequent class in the training split."""
        counts = self.boxes["train"][self.boxes["train"] > 0]
        return float(counts.max() / counts.min()) if len(counts) else float("nan")

    @property
    def text(self) -> str:
        """The report as lines of plain text."""
        folder = self.folder
        lines = [f"{folder.root}: {folder.description}", folder.split_origin, *folder.notes, ""]
        lines += [*self._split_table(), *self._ignored_lines(), "", *self._class_table(), "", *self._level_lines(), ""]
        lines += [*self.notes]
        lines += [f"{len(self.faults)} {'fault' if len(self.faults) == 1 else 'faults'}" + (":" if self.faults else "")]
        return "\n".join(lines + [f"  {fault}" for fault in self.faults])

    def _split_table(self) -> list[str]:
        lines = [f"{'split':<8}{'images':>8}{'without boxes':>16}{'boxes':>8}{'ignored':>9}"]
        for split, count in self.images.items():
            empty, boxes = self.images_without_objects[split], int(self.boxes[split].sum())
            lines.append(f"{split:<8}{count:>8}{empty:>16}{boxes:>8}{self.ignored[split]:>9}")
        return lines

    def _ignored_lines(self) -> list[str]:
        return [line for split in self.images if (line := ignored_regions(self.folder, split))]

    def _class_table(self) -> list[str]:
        names, splits = self.folder.class_names, list(self.images)
        width = max(12, *(len(name) + 2 for name in names))
        order = np.argsort(-self.boxes["train"], kind="stable").tolist()
        lines = [f"{'class':<{width}}" + "".join(f"{split:>8}" for split in splits) + f"{'repeat':>9}"]
        repeat = class_factors(self.folder.splits.get("train", ()), len(names), "auto")
        for label in order[:_MAX_LISTED]:
            lines.append(f"{names[label]:<{width}}" + "".join(f"{int(self.boxes[s][label]):>8}" for s in splits))
            lines[-1] += f"{repeat[label]:>9.2f}"
        if len(order) > _MAX_LISTED:
            lines.append(f"… and {len(order) - _MAX_LISTED} more classes")
        without = [names[label] for label in order if self.boxes["train"][label] == 0]
        if without:
            shown = ", ".join(without[:_MAX_LISTED]) + (", …" if len(without) > _MAX_LISTED else "")
            lines.append(f"without a training object: {shown}")
        if repeat.max(initial=1) > 1:
            lines.append("repeat: how much more often train --repeat auto draws a photo with this class")
        lines.append(f"imbalance of the classes in train: {self.imbalance:.1f} : 1")
        return lines

    def _level_lines(self) -> list[str]:
        lines = [f"box sizes at a longer side of {self.size} px (median √area {self.median_side_px:.0f} px):"]
        total = max(1, int(self.level_counts.sum()))
        for level, (stride, count) in enumerate(zip(self.strides, self.level_counts.tolist(), strict=True)):
            anchor = ANCHOR_SCALE * stride
            lines.append(
                f"  P{level + self._finest} stride {stride:>3}, anchor {anchor:>4} px{count:>8} {count / total:>7.1%}"
            )
        lines.append(f"  objects with a side beyond the reach of their level: {self.beyond_reach}")
        train = self.folder.splits.get("train", ())
        small = small_classes_line(median_sides(train, self.size), self.folder.class_names, self.size, self.strides[0])
        tile = suggests_tile(train, self.size, self.strides[0])
        medians = {split: median_seen(records, self.size) for split, records in self.folder.splits.items()}
        return lines + [f"  {line}" for line in (small, tile, size_difference(medians, self.size)) if line]

    @property
    def _finest(self) -> int:
        """Number of the finest level: P3 has stride 8."""
        return int(math.log2(self.strides[0]))


def check_folder(
    folder: DataFolder,
    *,
    strides: Sequence[int] = (8, 16, 32, 64, 128),
    size: int = 320,
    num_bins: int = 17,
    decode: bool = True,
    progress: Progress | None = None,
) -> DataReport:
    """Count, measure, decode and compare everything in a folder.

    Args:
        strides: strides of the pyramid's levels.
        size: longer side in pixels at which the detector is trained.
        num_bins: bins of a side's distribution, which reaches ``(num_bins - 1) · stride``.
        decode: decode every image, to find truncated ones, and compare the files' contents.
        progress: called now and then while images are decoded.
    """
    if size < MIN_SIZE:
        raise InputError(f"size: expected at least {MIN_SIZE}, got {size}")
    splits = folder.splits
    everything = [(split, record) for split, records in splits.items() for record in records]
    found, note = _content_faults(everything, progress) if decode else ([], "")
    sides = np.concatenate([sides_seen(record, size) for _, record in everything]) if everything else np.zeros((0, 2))
    geometric = np.sqrt(sides.prod(1))
    anchors = ANCHOR_SCALE * np.array(strides, np.float64)
    level = np.abs(np.log(np.maximum(geometric, 1e-6))[:, None] - np.log(anchors)).argmin(1)
    reach = (num_bins - 1) * np.array(strides)[level]
    classes = {s: [label for r in found for label in r.labels[~r.ignored].tolist()] for s, found in splits.items()}
    return DataReport(
        folder=folder,
        size=size,
        strides=tuple(strides),
        images={split: len(found) for split, found in splits.items()},
        images_without_objects={split: sum(r.num_objects == 0 for r in found) for split, found in splits.items()},
        boxes={s: np.bincount(np.array(c, np.int64), minlength=folder.num_classes) for s, c in classes.items()},
        ignored={split: sum(int(r.ignored.sum()) for r in found) for split, found in splits.items()},
        level_counts=np.bincount(level, minlength=len(strides)),
        beyond_reach=int((sides.max(1, initial=0) / 2 > reach).sum()),
        median_side_px=float(np.median(geometric)) if len(geometric) else float("nan"),
        faults=(*folder.faults, *found),
        notes=tuple(line for line in (note, too_large_without_tile([r for _, r in everything])) if line),
    )


def _content_faults(everything: list[tuple[str, ImageRecord]], progress: Progress | None) -> tuple[list[Fault], str]:
    """Find images that cannot be decoded and equal files, in one split or (a leak) across two; also ``depth_note``."""
    paths = list(dict.fromkeys(record.path for _, record in everything))
    with no_size_warnings():
        results = dict(zip(paths, each(_decode, paths, progress), strict=True))
    faults = []
    first: dict[bytes, tuple[str, str]] = {}
    for split, record in everything:
        digest, problem, _ = results[record.path]
        if problem:
            faults.append(Fault("damaged-image", record.file_name, "", problem))
        twin_split, twin = first.setdefault(digest, (split, record.file_name))
        if (twin_split, twin) == (split, record.file_name):
            continue
        if twin_split == split:
            faults.append(Fault("duplicate-content", record.file_name, "", f"the same file as {twin}"))
        else:
            problem = f"{split} holds the same file as {twin_split} ({twin})"
            faults.append(Fault("leak", record.file_name, "", problem))
    return faults, depth_note(white for _, _, white in results.values())


def _decode(path: Path) -> tuple[bytes, str, int]:
    """Digest of the file, its decoding error, and its white as in ``Decoded``."""
    hashed = blake2b(digest_size=16)
    with open_regular(path) as file:
        while part := file.read(2**20):
            hashed.update(part)
    digest = hashed.digest()
    try:
        white, problem = decode_to_the_end(path)
    except InputError as error:
        white, problem = FULL, str(error)
    return digest, problem.partition(": ")[2], white
