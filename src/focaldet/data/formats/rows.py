"""Collect the boxes of a photo while its labels are read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from focaldet.checks import InputError, near_name
from focaldet.data.formats.values import read_lines
from focaldet.data.likeness import split_of
from focaldet.data.records import Annotation, Fault, Form
from focaldet.data.spelling import folder_of, stem
from focaldet.data.tree import FoundPhoto, Tree

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


@dataclass
class Rows:
    """The labels of one photo from one label file.

    Args:
        photo: the photo.
        source: the label file.
        item: name of a box in faults, with ``{}`` for its number.
        image_id: id of the photo in the label file, or a running number.
        file_name: name of the photo in the label file; default: its name in the folder.
        stated_size: (width, height) that the label file states.
        relative: whether boxes are fractions.
        form: as in ``Annotation``.
    """

    photo: FoundPhoto
    source: str
    item: str
    image_id: int | str
    file_name: str = ""
    stated_size: tuple[int, int] | None = None
    relative: bool = False
    form: Form = "corners"
    boxes: list[Box] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)

    def add(self, box: Sequence[float], name: str, number: int, *, ignored: bool = False) -> None:
        """Add a box and its class."""
        x1, y1, x2, y2 = box
        self.boxes.append((x1, y1, x2, y2))
        self.names.append(name)
        self.numbers.append(number)
        self.ignored.append(ignored)

    def annotation(self, tree: Tree, label_of: dict[str, int], faults: list[Fault]) -> Annotation:
        """The annotation of the photo; an unknown class is a fault of its box."""
        known = [name in label_of for name in self.names]
        for name, number, is_known in zip(self.names, self.numbers, known, strict=True):
            if not is_known:
                before, _, after = self.item.rpartition("{}")
                problem = f"class {name!r} is not in the list of classes ({near_name(name, label_of)})"
                faults.append(Fault("unknown-class", self.source, f"{before}{number}{after} ({name})", problem))
        keep = np.array(known, bool)
        return Annotation(
            path=tree.path(self.photo.name),
            file_name=self.file_name or self.photo.name,
            image_id=self.image_id,
            source=self.source,
            stated_size=self.stated_size,
            boxes_xyxy=np.array(self.boxes, np.float64).reshape(-1, 4)[keep],
            labels=np.array([label_of[n] for n in self.names if n in label_of], np.int64),
            ignored=np.array(self.ignored, bool)[keep],
            numbers=np.array(self.numbers, np.int64)[keep],
            item=self.item,
            class_names=tuple(label_of),
            relative=self.relative,
            form=self.form,
        )


def one_of_each_photo(rows: Iterable[Rows], faults: list[Fault]) -> list[Rows]:
    """Make sure that each photo has only one set of labels.

    If several label files refer to one photo, the one that matches its path best is used; the others refer to a missing
    photo. Copies of a label file count once. If label files contradict each other, the photo is left out.
    """
    of_photo: dict[str, list[Rows]] = {}
    for found in rows:
        of_photo.setdefault(found.photo.name, []).append(found)
    kept = []
    for photo, claims in of_photo.items():
        most = max(claim.photo.certainty for claim in claims)
        for claim in claims:
            if claim.photo.certainty < most:
                problem = f"there is no such photo; the nearest, {photo}, belongs to other labels"
                faults.append(Fault("missing-image", claim.source, claim.file_name, problem))
        best = [claim for claim in claims if claim.photo.certainty == most]
        first = best[0]
        if all((claim.boxes, claim.names) == (first.boxes, first.names) for claim in best):
            kept.append(first)
        else:
            both = " and ".join(dict.fromkeys(claim.source for claim in best[:2]))
            faults.append(Fault("duplicate-image", photo, "", f"{both} label it differently; keep one of them"))
    return kept


def annotated(rows: Iterable[Rows], tree: Tree, class_names: Sequence[str], faults: list[Fault]) -> list[Annotation]:
    """Annotations of photos, with classes as numbers."""
    label_of = {name: label for label, name in enumerate(class_names)}
    return [found.annotation(tree, label_of, faults) for found in rows]


def listed_classes(tree: Tree, lists: Sequence[str]) -> tuple[str, ...]:
    """The classes in a text file with one per line; none if there is no such file.

    Raises:
        InputError: the list is empty or not text.
    """
    for name in lists:
        if name in tree.files:
            names = tuple(dict.fromkeys(read_lines(tree.path(name), name)))
            if not names:
                raise InputError(f"{name}: no class names; write one per line, or remove the file")
            return names
    return ()


def split_of_pair(source: str, photo: str) -> str:
    """The split suggested by the folders of a label file, or else of its photo; the nearest folder first."""
    parts = [*folder_of(source).split("/")[::-1], *folder_of(photo).split("/")[::-1]]
    return next(filter(None, map(split_of, parts)), "")


def unlabelled(tree: Tree, rows: Sequence[Rows], named: set[str], label_file: str) -> list[Fault]:
    """A fault for each photo without a label file, in folders where others have one.

    Args:
        named: bare names of the label files; a photo with such a name is another version of a labelled one, such as a
            mask.
        label_file: the missing kind of file.
    """
    used = {row.photo.name for row in rows}
    folders = {folder_of(name) for name in used}
    problem = f"no {label_file} of this name; an image without objects needs one without objects"
    return [
        Fault("missing-annotation", photo, "", problem)
        for photo in tree.photos
        if photo not in used and folder_of(photo) in folders and stem(photo) not in named
    ]


def around(points: Iterable[Sequence[float]]) -> Box | None:
    """The box around points ``(x, y)``; ``None`` without points.

    >>> around([(2, 9), (4, 1), (3, 3)])
    (2, 1, 4, 9)
    """
    xs, ys = zip(*points, strict=True) if (points := list(points)) else ((), ())
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None


def around_turned(box: Box, degrees: float) -> Box:
    """The box around another box that is rotated about its centre.

    >>> around_turned((0, 0, 4, 2), 90)
    (1.0, -1.0, 3.0, 3.0)
    """
    x1, y1, x2, y2 = box
    turn = np.deg2rad(degrees)
    across, along = abs(np.cos(turn)), abs(np.sin(turn))
    width = (x2 - x1) * across + (y2 - y1) * along
    height = (x2 - x1) * along + (y2 - y1) * across
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return tuple(round(float(v), 9) for v in corners)  # type: ignore[return-value]
