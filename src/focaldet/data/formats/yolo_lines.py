"""Parse the lines of YOLO's label files: a class, and a box or a polygon in fractions of the image."""

import math

import numpy as np

from focaldet.checks import InputError
from focaldet.data.formats.rows import Rows
from focaldet.data.formats.values import as_number, decoded, read_lines
from focaldet.data.records import Fault
from focaldet.data.tree import AS_STATED, FoundPhoto, Tree
from focaldet.files import MAX_TEXT


class LabelReader:
    """Reads label files, and remembers the class numbers in them.

    Args:
        names: class number -> name.
        points: number of key point values after a box.
        faults: list to which the faults of single lines are added.
    """

    def __init__(self, tree: Tree, names: dict[int, str], points: int, faults: list[Fault]) -> None:
        self._tree, self._names, self._points, self._faults = tree, names, points, faults
        self._known = set(names.values())
        self._seen: set[float] = set()

    def rows(self, photo: str, label_file: str, number: int) -> Rows | None:
        """The labels of a photo; ``None`` if its label file cannot be read.

        Args:
            label_file: empty if there is none: such a photo has no objects.
            number: running number of the photo.
        """
        tree = self._tree
        rows = Rows(FoundPhoto(photo, AS_STATED), label_file or photo, "line {}", number, relative=True, form="centre")
        if not label_file:
            return rows
        try:
            text = "\0" if label_file in tree.unusable or label_file in tree.folders else label_text(tree, label_file)
        except UnicodeError:
            text = "\0"
        if "\0" in text:
            self._faults.append(Fault("unreadable-annotation", label_file, "", "not a text file"))
            return None
        for i, line in enumerate(text.splitlines()):
            if line.strip() and not line.lstrip().startswith("#"):
                read = self._line(line)
                if isinstance(read, Fault):
                    self._faults.append(Fault(read.kind, label_file, f"line {i + 1}", read.problem))
                else:
                    rows.add(read[1], read[0], i + 1)
        return rows

    def _line(self, line: str) -> tuple[str, list[float]] | Fault:
        """The class and the corners in fractions from a line, or its fault."""
        words = _words(line)
        if words[0] in self._known and as_number(words[0]) is None:  # the class as a name
            words[0] = str(next(number for number, name in self._names.items() if name == words[0]))
        numbers = _numbers(words, self._points)
        if isinstance(numbers, Fault):
            return numbers
        label, box = numbers[0], numbers[1:]
        self._seen.add(label if math.isfinite(label) else -1)
        if label not in self._names:
            known = f"{min(self._names)} to {max(self._names)}"
            return Fault("unknown-class", "", "", f"class {label:g}, but there are only {len(self._names)} ({known})")
        return self._names[int(label)], box

    def check_numbers(self, source: str) -> None:
        """Raise InputError if the class numbers do not seem to start where the list of classes does.

        Args:
            source: file with the list.
        """
        first, last = min(self._names), max(self._names)
        if first == 0 and self._seen and min(self._seen) == 1 and max(self._seen) == last + 1:
            raise InputError(
                f"{source}: the label files count the classes from 1 to {last + 1}, and the list has {last + 1}, from "
                f"0 to {last}; subtract 1 from each number in the label files, or put the missing name first"
            )


def looks_like_labels(tree: Tree, name: str) -> bool:
    """Whether the first lines of a text file may be labels."""
    try:
        lines = read_lines(tree.path(name), name)[:20]
    except InputError:
        return False
    numbers = [_numbers(_words(line), 0) for line in lines]
    return bool(lines) and not any(isinstance(n, Fault) or not 0 <= n[0] < 10_000 for n in numbers)


def label_text(tree: Tree, name: str) -> str:
    """The text of a file.

    Raises:
        UnicodeError: the file is not text.
    """
    data = tree.read(name, MAX_TEXT)
    text = decoded(data)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and not text.isascii():  # bytes that only look like UTF-16's mark
        raise UnicodeError("not text")
    return text


def _words(line: str) -> list[str]:
    words = line.split()
    if len(words) == 1:
        words = line.split(",")
    return [word.removesuffix(",") for word in words]


def _numbers(words: list[str], points: int) -> list[float] | Fault:
    """``[class, x1, y1, x2, y2]`` in fractions, or the fault."""

    def bad(problem: str) -> Fault:
        return Fault("bad-entry", "", "", problem)

    values = [as_number(word) for word in words]
    if any(value is None for value in values):
        return bad(f"expected numbers, got {' '.join(words)!r:.60}")
    numbers: list[float] = values  # type: ignore[assignment]
    if points and len(numbers) == 5 + points:
        numbers = numbers[:5]
    # Detector output ends in a confidence, a rotated box in an angle.
    if len(numbers) == 6 and not 0 <= (last := numbers.pop()) <= 1:
        return bad(f"the sixth number, {last:g}, is not a confidence; is it an angle? export corners instead")
    if not (len(numbers) == 5 or (len(numbers) >= 7 and len(numbers) % 2 == 1)):
        return bad(f"expected 5 numbers (or a polygon), got {len(numbers)}")
    label, rest = numbers[0], numbers[1:]
    if len(rest) > 4:
        corners = np.array(rest).reshape(-1, 2)
        return [label, *corners.min(0).tolist(), *corners.max(0).tolist()]
    x, y, w, h = rest
    return [label, x - w / 2, y - h / 2, x + w / 2, y + h / 2]
