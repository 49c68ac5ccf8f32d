"""What a folder of labelled photos holds: images with their boxes, and every fault that was found on the way.

Axes: N boxes of one image. Pixels are those of the image as it is displayed, after its EXIF rotation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FAULT_KINDS: dict[str, str] = {
    "missing-image": "image left out",
    "unreadable-image": "image left out",
    "damaged-image": "another photo stands in for it in training; train --verify leaves it out",
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
"""Code of a fault -> what was done about it."""


NO_CLASS = -1
"""Label of an ignored region that is of no class in particular, and so of every one."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one item of the data.

    Args:
        kind: a code of ``FAULT_KINDS``.
        file: the file that says it, relative to the data folder.
        item: which of its items, for example ``"object 5 (RBC)"``; empty for the file as a whole.
        problem: what is wrong, in a few words.

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
        """Whether an annotated box is not used because of it."""
        return FAULT_KINDS[self.kind] == "box left out"

    @property
    def loses_image(self) -> bool:
        """Whether an image is not used because of it."""
        return FAULT_KINDS[self.kind] == "image left out"


Form = Literal["corners", "size", "centre"]


@dataclass(frozen=True, eq=False)
class Annotation:
    """One image as its annotation file describes it, before anything has been compared with the image itself.

    Args:
        path: the image.
        file_name: as in the annotation, relative, with forward slashes.
        image_id: as in the annotation, or a running number.
        source: the annotation file, relative to the data folder; faults name it.
        stated_size: (width, height) that the annotation claims, or ``None``.
        boxes_xyxy: ``(N, 4)`` float64: pixels, or fractions of the displayed image when ``relative``.
        labels: ``(N,)`` int64.
        ignored: ``(N,)`` bool.
        numbers: ``(N,)`` int64, the place of each box in its file.
        item: what a fault calls a box, with ``{}`` for its number: ``"line {}"``.
        class_names: C names.
        relative: whether boxes are fractions.
        areas: ``(N,)`` float64, pixels² as the file states them (NaN where it states none), or ``None``.
        form: how the file writes a box: two corners, a corner and a size, or a centre and a size.
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
        """What a fault calls a box: its place in the file, and its class."""
        before, _, after = self.item.rpartition("{}")
        return f"{before}{self.numbers[box]}{after} ({self.class_names[self.labels[box]]})"


@dataclass(frozen=True, eq=False)
class ParsedLayout:
    """The annotation files of a folder, read.

    Args:
        class_names: C names.
        splits: ``"train"``, ``"val"``, ``"test"``; ``""`` holds images that belong to no split.
        faults: what was wrong with single items.
        description: a sentence: how the layout was recognised.
        category_ids: C ids of the classes (COCO), or none.
        notes: sentences about what was read in another way than written, or not at all.
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
        labels: ``(N,)`` int64 in ``[0, C)``; of an ignored region also ``NO_CLASS``.
        ignored: ``(N,)`` bool: a region that counts neither as object nor as background (COCO ``iscrowd``, or a class
            that is to be ignored). VOC's ``difficult`` objects are ordinary objects here: they are visible and
            labelled, and COCO's AP, which is what is reported, knows no such flag.
        areas: ``(N,)`` float64, pixels², by which AP sorts objects into small, medium and large: the annotation's own
            ``area`` where it gives one (of a segmentation, for example), else that of the box. ``None``: of the boxes.
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
        """Boxes that are objects, ignored regions not counted."""
        return int((~self.ignored).sum())


@dataclass(frozen=True, eq=False)
class DataFolder:
    """Everything ``read_folder`` found.

    Args:
        root: the folder.
        layout: ``"coco"``, ``"voc"`` or ``"yolo"``.
        class_names: C names; a label is an index into them.
        splits: ``"train"``, ``"val"`` and, when there is one, ``"test"``.
        split_origin: a sentence: given by the layout, or made, how and with which seed.
        description: a sentence: how the layout was recognised.
        faults: everything that is wrong with single items.
        ignored_classes: further names, whose boxes are ignored regions (``ignore_classes``).
        made_splits: those of ``splits`` that the layout does not give.
        category_ids: C ids of the classes as the user's own COCO file has them; empty: label + 1.
        notes: sentences about what was read in another way than written, or not at all.
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
        """One line that counts the faults by kind; empty when there are none."""
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
