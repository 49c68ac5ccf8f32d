"""LabelMe: one JSON file per image, with shapes.

The photo has the same name as the JSON file, or is named by ``imagePath``. A rectangle has two opposite corners, in any
order; any other shape with an area becomes its enclosing box. https://github.com/wkentaro/labelme
"""

import json
import math
from typing import Any

from focaldet.data.formats.rows import (
    Box,
    Rows,
    annotated,
    around,
    listed_classes,
    one_of_each_photo,
    split_of_pair,
    unlabelled,
)
from focaldet.data.formats.values import as_number, as_size
from focaldet.data.records import Annotation, Fault, ParsedLayout
from focaldet.data.spelling import folder_of, stem
from focaldet.data.tree import PhotoError, Tree

_CLASS_LISTS = ("labels.txt", "classes.txt")

_WITHOUT_AREA = ("point", "points", "line", "linestrip")


def looks_like_labelme(tree: Tree, name: str) -> bool:
    """Whether a JSON file has LabelMe's keys."""
    content = tree.read(name)
    return b'"shapes"' in content and (b'"imagePath"' in content or b'"imageHeight"' in content)


def find_labelme(tree: Tree) -> list[str]:
    """The label files, sorted."""
    return [name for name in tree.with_suffix(".json") if looks_like_labelme(tree, name)]


def read_labelme(tree: Tree, files: list[str]) -> ParsedLayout:
    """Read all label files of a LabelMe folder. Classes are the lines of ``labels.txt``, or else the sorted names.

    Raises:
        InputError: a list of classes is unusable.
    """
    faults: list[Fault] = []
    rows = []
    for number, name in enumerate(files):
        try:
            document = json.loads(tree.read(name))
            if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
                raise ValueError("expected an object with the list 'shapes'")
            rows.append(_rows(tree, name, number, document, faults))
        except (ValueError, RecursionError) as error:
            faults.append(Fault("unreadable-annotation", name, "", f"not readable as LabelMe's JSON ({error})"))
        except PhotoError as error:
            faults.append(Fault("missing-image", name, "", str(error)))
    rows = one_of_each_photo(rows, faults)
    listed = tuple(n for n in listed_classes(tree, _CLASS_LISTS) if n not in ("__ignore__", "_background_"))
    class_names = listed or tuple(sorted({label for row in rows for label in row.names}))
    splits: dict[str, list[Annotation]] = {}
    for row, annotation in zip(rows, annotated(rows, tree, class_names, faults), strict=True):
        splits.setdefault(split_of_pair(row.source, row.photo.name), []).append(annotation)
    faults += unlabelled(tree, rows, {stem(name) for name in files}, "JSON file")
    folder = folder_of(files[0]) or "the folder itself"
    return ParsedLayout(class_names, splits, faults, f"LabelMe, recognised by {len(files):,} JSON files in {folder}")


def _rows(tree: Tree, name: str, number: int, document: dict[str, Any], faults: list[Fault]) -> Rows:
    path = document.get("imagePath")
    photo = tree.photo_of(name, [path] if isinstance(path, str) else [])
    size = as_size(document.get("imageWidth"), document.get("imageHeight"))
    rows = Rows(photo=photo, source=name, item="shape {}", image_id=number, stated_size=size)
    for i, shape in enumerate(document["shapes"]):
        label = shape.get("label") if isinstance(shape, dict) else None
        item = f"shape {i + 1}" + (f" ({label})" if isinstance(label, str) else "")
        if not isinstance(label, str) or not label.strip():
            faults.append(Fault("bad-entry", name, item, "expected an object with a 'label'"))
        elif shape.get("shape_type") in _WITHOUT_AREA:
            faults.append(Fault("zero-area", name, item, f"a {shape['shape_type']} has no box"))
        elif (box := _box(shape)) is None:
            faults.append(Fault("bad-entry", name, item, "expected 'points' as a list of at least two (x, y)"))
        else:
            rows.add(box, label.strip(), i + 1)
    return rows


def _box(shape: dict[str, Any]) -> Box | None:
    points = shape.get("points")
    if not isinstance(points, list) or len(points) < 2:
        return None
    numbers = []
    for point in points:
        values = [as_number(v) for v in point] if isinstance(point, list) and len(point) == 2 else [None]
        if any(v is None for v in values):
            return None
        numbers.append((values[0], values[1]))
    if shape.get("shape_type") == "circle":  # the centre, and a point on the circle
        (x, y), on_it = numbers[0], numbers[1]
        radius = math.dist((x, y), on_it)  # type: ignore[arg-type]
        return (x - radius, y - radius, x + radius, y + radius)  # type: ignore[operator]
    return around(numbers)  # type: ignore[arg-type]
