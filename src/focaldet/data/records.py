"""Contents of a folder of labelled photos: images with their boxes, and all faults.

Axes: N boxes of one image. Pixels refer to the displayed image, after its EXIF rotation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FAULT_KINDS: dict[str, str] = {
    "missing-image": "image left out",
    "unreadable-image": "image left out",
    "damaged-image": "another photo replaces it in training; train --verify leaves it out",
    "missing-annotation": "image left out",
    "unreadable-annotation": "image left out",
    "duplicate-image": "image left out",
    "size-differs": "kept, boxes as written",
    "scaled-size": "image left out",
    "mislabelled-image": "kept",
    "exif-orientation": "kept, boxes as displayed",
    "bad-entry": "entry left out",
    "unknown-class": "box left out",
    "not-a-number": "box left out",
    "zero-area": "box left out",
    "within-a-pixel": "box left out",
    "outside": "box left out",
    "partly-outside": "kept, clipped",
    "duplicate-box": "box left out",
    "duplicate-content": "kept",
    "leak": "kept",
    "not-a-file": "passed over",
    "similar-classes": "kept apart",
}
"""Code of a fault -> its consequence."""


NO_CLASS = -1
"""Label of an ignore region without a class, which counts for every class."""


@dataclass(frozen=True)
class Fault:
    """One fault of one item of the data.

    Args:
        kind: a code of ``FAULT_KINDS``.
        file: the faulty file, relative to the data folder.
        item: the faulty item, for example ``"object 5 (RBC)"``; empty for the file as a whole.
        problem: the fault, in a few words.

    >>> str(Fault("zero-area", "Annotations/a.xml", "object 5 (RBC)", "xmin 40 and xmax 40"))
    'zero-area: Annotations/a.xml: object 5 (RBC): xmin 40 and xmax 40 [box left out]'
    """

    kind: str
    file: str
    item: str
    problem: str

    def __post_init__(self) -> None:
        assert self.kind in FAULT_KINDS, self.kind

    def __str__(self) -> str:
        place = f"{self.file}: {self.item}" if self.item else self.file
        return f"{self.kind}: {place}: {self.problem} [{FAULT_KINDS[self.kind]}]".replace("\n", " ")

    @property
    def loses_box(self) -> bool:
        """Whether the fault excludes a box."""
        return FAULT_KINDS[self.kind] == "box left out"

    @property
    def loses_image(self) -> bool:
        """Whether the fault excludes an image."""
        return FAULT_KINDS[self.kind] == "image left out"


Form = Literal["corners", "size", "centre"]


@dataclass(frozen=True, eq=False)
class Annotation:
    """One image as its annotation file describes it, not yet compared with the image itself.

    Args:
        path: the image.
        file_name: as in the annotation, relative, with forward slashes.
        image_id: as in the annotation, or a running number.
        source: the annotation file, relative to the data folder; faults name it.
        stated_size: (width, height) that the annotation states, or ``None``.
        boxes_xyxy: ``(N, 4)`` float64: pixels, or fractions of the displayed image when ``relative``.
        labels: ``(N,)`` int64.
        ignored: ``(N,)`` bool.
        numbers: ``(N,)`` int64, the position of each box in its file.
        item: name of a box in faults, with ``{}`` for its number: ``"line {}"``.
        class_names: C names.
        relative: whether boxes are fractions.
        areas: ``(N,)`` float64, pixels² as stated in the file (NaN if it states none), or ``None``.
        form: form of a box in the file: two corners, a corner and a size, or a centre and a size.
    """

    path: Path
    file_name: str
    image_id: int | str
    source: str
    stated_size: tuple[int, int] | None
    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    item: str
    class_names: tuple[str, ...]
    relative: bool = False
    areas: NDArray[np.float64] | None = None
    form: Form = "corners"

    def item_of(self, box: int) -> str:
        """Name of a box in faults: its position in the file, and its class."""
        before, _, after = self.item.rpartition("{}")
        return f"{before}{self.numbers[box]}{after} ({self.class_names[self.labels[box]]})"


@dataclass(frozen=True, eq=False)
class ParsedLayout:
    """The parsed annotation files of a folder.

    Args:
        class_names: C names.
        splits: ``"train"``, ``"val"``, ``"test"``; ``""`` holds images that belong to no split.
        faults: faults of single items.
        description: a sentence: how the layout was recognised.
        category_ids: C ids of the classes (COCO), or none.
        notes: sentences about contents that were reinterpreted or not read.
    """

    class_names: tuple[str, ...]
    splits: dict[str, list[Annotation]]
    faults: list[Fault]
    description: str
    category_ids: tuple[int | str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its usable boxes.

    Args:
        path: the image.
        file_name: as in the annotation, relative, with forward slashes.
        image_id: as in the annotation (COCO: a number or a word), else a running number over the folder.
        width: pixels, as displayed.
        height: pixels, as displayed.
        boxes_xyxy: ``(N, 4)`` float32, pixels, inside the image, of positive area.
        labels: ``(N,)`` int64 in ``[0, C)``; an ignore region can also have ``NO_CLASS``.
        ignored: ``(N,)`` bool, True for ignore regions, which are neither object nor background (COCO ``iscrowd``, or
            an ignored class). VOC's ``difficult`` objects are ordinary objects here: they are visible and labelled, and
            COCO's AP, which we report, has no such flag.
        areas: ``(N,)`` float64, pixels², by which AP divides objects into small, medium and large: the annotation's own
            ``area`` if it has one (of a segmentation, for example), else the area of the box. ``None``: the areas of
            the boxes.
    """

    path: Path
    file_name: str
    image_id: int | str
    width: int
    height: int
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float64] | None = None

    @property
    def num_objects(self) -> int:
        """Number of objects, without ignore regions."""
        return int((~self.ignored).sum())


@dataclass(frozen=True, eq=False)
class DataFolder:
    """The result of ``read_folder``.

    Args:
        root: the folder.
        layout: ``"coco"``, ``"voc"`` or ``"yolo"``.
        class_names: C names; a label is an index into them.
        splits: ``"train"``, ``"val"`` and, when there is one, ``"test"``.
        split_origin: a sentence: whether the layout has the splits, or how and with which seed they were made.
        description: a sentence: how the layout was recognised.
        faults: all faults of single items.
        ignored_classes: names of further classes, whose boxes are ignore regions (``ignore_classes``).
        made_splits: the splits that the layout does not have.
        category_ids: C ids of the classes in the user's own COCO file; empty: label + 1.
        notes: sentences about contents that were reinterpreted or not read.
    """

    root: Path
    layout: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[ImageRecord, ...]]
    split_origin: str
    description: str
    faults: tuple[Fault, ...]
    ignored_classes: tuple[str, ...] = ()
    made_splits: tuple[str, ...] = ()
    category_ids: tuple[int | str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def fault_summary(self) -> str:
        """A line with the number of faults of each kind; empty if there are none."""
        if not self.faults:
            return ""
        kinds = [f.kind for f in self.faults]
        counts = ", ".join(f"{kinds.count(k)} {k}" for k in FAULT_KINDS if k in kinds)
        boxes = sum(f.loses_box for f in self.faults)
        images = sum(f.loses_image for f in self.faults)
        return (
            f"faults in the data: {counts}; boxes left out: {boxes}, images left out: {images}; "
            f"list them with: focaldet data check {self.root}"
        )
