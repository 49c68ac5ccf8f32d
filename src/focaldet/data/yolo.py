"""The YOLO layout: one text file an image, ``class x y width height`` a line, in fractions of the image.

Accepted places: a YAML file with ``names`` and ``train``/``val``/``test`` (folders, or text files that list images), or
``images`` and ``labels`` folders with ``classes.txt``. The labels of ``.../images/a.jpg`` are ``.../labels/a.txt``; an
image without that file has no objects. A line with more numbers is a polygon, whose bounding box is taken.
Fractions have no pixels, so they always refer to the image as it is displayed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from focaldet.checks import InputError
from focaldet.data.paths import images_in, inside, read_lines, relative_name, split_of
from focaldet.data.records import Annotation, Fault, ParsedLayout


def find_yolo(root: Path) -> Path | None:
    """The YAML file or the list of classes that describes the folder, or ``None``."""
    for path in sorted({*root.glob("*.yaml"), *root.glob("*.yml")}):
        try:
            document = _load_yaml(path)
        except InputError:
            if path.stem != "data":  # somebody's other YAML file
                continue
            raise
        if isinstance(document, dict) and "names" in document:
            return path
    if any(root.rglob("labels")) and any(root.rglob("images")):
        for name in ("classes.txt", "obj.names", "labels.txt"):
            for path in (root / name, root / "labels" / name):
                if path.is_file():
                    return path
    return None


def _load_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path.name}: not readable as YAML ({' '.join(str(error).split())})") from None


def read_yolo(root: Path, described_by: Path) -> ParsedLayout:
    """All label files of a YOLO folder.

    Raises:
        InputError: the description is unusable, or a path in it leaves the folder.
    """
    faults: list[Fault] = []
    if described_by.suffix in (".yaml", ".yml"):
        document = _load_yaml(described_by)
        class_names = _yaml_names(document, described_by.name)
        images = _yaml_splits(document, described_by, root, faults)
    else:
        class_names = tuple(read_lines(described_by, root))
        images = _folder_splits(root)
    if not class_names:
        raise InputError(f"{described_by.name}: no class names")
    splits: dict[str, list[Annotation]] = {}
    number = 0
    for split, paths in images.items():
        for path in paths:
            annotation = _annotation(path, root, number, class_names, faults)
            number += 1
            if annotation is not None:
                splits.setdefault(split, []).append(annotation)
    faults += _orphans(root, {_label_file(p) for paths in images.values() for p in paths})
    source = relative_name(described_by, root)
    return ParsedLayout(class_names, splits, faults, f"YOLO, recognised by {source} and its label files")


def _yaml_names(document: dict[str, Any], source: str) -> tuple[str, ...]:
    names = document["names"]
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise InputError(f"{source}: expected 'names' as a list, or as a mapping from 0, 1, 2, … to names")
    return tuple(str(n) for n in names)


def _yaml_splits(document: dict[str, Any], file: Path, root: Path, faults: list[Fault]) -> dict[str, list[Path]]:
    base = root
    if isinstance(document.get("path"), str):
        # Usually the folder's place on the machine where the set was made: taken only where it fits here.
        stated = root / document["path"]
        base = stated if stated.is_dir() and stated.resolve().is_relative_to(root.resolve()) else root
    splits: dict[str, list[Path]] = {}
    for key in ("train", "val", "test"):
        entries = document.get(key) or (document.get("valid") if key == "val" else None) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str):
                raise InputError(
                    f"{file.name}: expected {key!r} as a path or a list of paths, got a {type(entry).__name__}"
                )
            splits.setdefault(key, []).extend(_listed_images(_place(entry, base, root, file.name), root, faults))
    return splits or _folder_splits(root)


def _place(entry: str, base: Path, root: Path, source: str) -> Path:
    name = entry
    if not (base / name).exists():
        # Exports by Roboflow say "../train/images" and mean "train/images".
        while name.startswith("../"):
            name = name.removeprefix("../")
    place = inside(base, name, source)
    if not place.exists():
        raise InputError(f"{source}: {entry!r} is not in {root}; correct the path or remove the line")
    return place


def _listed_images(place: Path, root: Path, faults: list[Fault]) -> list[Path]:
    if place.is_dir():
        return images_in(place)
    source = relative_name(place, root)
    return [inside(place.parent, line.removeprefix("./"), source) for line in read_lines(place, root)]


def _folder_splits(root: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for path in images_in(root):
        folder = path.parent.relative_to(root).as_posix()
        if "images" in folder.split("/"):
            splits.setdefault(split_of(folder), []).append(path)
    return splits


def _label_file(image: Path) -> Path:
    """``a/images/b/c.jpg`` -> ``a/labels/b/c.txt``: the last folder named images is the one."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _annotation(
    path: Path, root: Path, number: int, class_names: tuple[str, ...], faults: list[Fault]
) -> Annotation | None:
    label_file = _label_file(path)
    source = relative_name(label_file, root)
    boxes, labels, items = [], [], []
    if label_file.is_file():
        try:
            lines = label_file.read_text(encoding="utf-8").splitlines()
        except UnicodeError:
            faults.append(Fault("unreadable-annotation", source, "", "not a text file"))
            return None
        for i, line in enumerate(lines):
            if line.strip():
                result = _line(line, class_names)
                item = f"line {i + 1}"
                if isinstance(result, tuple):
                    faults.append(Fault(result[0], source, item, result[1]))
                else:
                    label = int(result[0])
                    boxes.append(result[1:])
                    labels.append(label)
                    items.append(f"{item} ({class_names[label]})")
    return Annotation(
        path=path,
        file_name=relative_name(path, root),
        image_id=number,
        source=source if label_file.is_file() else relative_name(path, root),
        stated_size=None,
        boxes_xyxy=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignored=np.zeros(len(boxes), bool),
        items=tuple(items),
        relative=True,
    )


def _line(line: str, class_names: tuple[str, ...]) -> list[float] | tuple[str, str]:
    """``[label, x1, y1, x2, y2]`` in fractions, or the kind and the problem of a fault."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return "bad-entry", f"expected numbers, got {line.strip()!r:.60}"
    if len(values) == 6:
        values.pop()  # a detector's own output: the last number is its confidence
    if not (len(values) == 5 or (len(values) >= 7 and len(values) % 2 == 1)):
        return "bad-entry", f"expected 5 numbers (or a polygon), got {len(values)}"
    label, rest = values[0], np.array(values[1:])
    if not label.is_integer() or not 0 <= label < len(class_names):
        return "unknown-class", f"class {label:g}, and there are {len(class_names)} (0 to {len(class_names) - 1})"
    if len(rest) > 4:
        points = rest.reshape(-1, 2)
        return [label, *points.min(0).tolist(), *points.max(0).tolist()]
    x, y, w, h = rest.tolist()
    return [label, x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def _orphans(root: Path, expected: set[Path]) -> list[Fault]:
    faults = []
    for path in sorted(root.rglob("*.txt")):
        relative = path.relative_to(root)
        if "labels" in relative.parts[:-1] and path not in expected and path.name not in ("classes.txt", "labels.txt"):
            faults.append(Fault("missing-image", relative.as_posix(), "", "labels without an image of this name"))
    return faults
