"""CVAT for images: one XML file with every image and its shapes.

Boxes are two corners in continuous pixel coordinates. A rotated box, an ellipse, a polygon or a mask becomes its
enclosing box. https://docs.cvat.ai/docs/manual/advanced/xml_format/
"""

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from focaldet.checks import InputError
from focaldet.data.formats.rows import Box, Rows, annotated, around, around_turned, one_of_each_photo, split_of_pair
from focaldet.data.formats.values import as_number, as_size
from focaldet.data.formats.xml_file import parse_xml, root_element
from focaldet.data.likeness import split_of
from focaldet.data.records import Annotation, Fault, ParsedLayout
from focaldet.data.spelling import folder_of, stem
from focaldet.data.tree import PhotoError, Tree

_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")


def find_cvat(tree: Tree) -> list[str]:
    """The annotation files, sorted."""
    return [name for name in tree.with_suffix(".xml") if root_element(tree, name) == "annotations"]


def read_cvat(tree: Tree, files: list[str]) -> ParsedLayout:
    """Read all annotation files of a CVAT folder. Classes are the labels of the first file's task, in its order.

    Raises:
        InputError: a file cannot be read, or holds the tracks of a video.
    """
    faults: list[Fault] = []
    rows: list[Rows] = []
    of_split: list[str] = []
    class_names: tuple[str, ...] = ()
    for name in files:
        try:
            root = parse_xml(tree, name)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{name}: {error}; export it again") from None
        if root.find("image") is None:
            tracks = root.find("track") is not None
            problem = "has tracks of a video; export it as 'CVAT for images'" if tracks else "has no <image>"
            raise InputError(f"{name}: {problem}")
        labels = [n.text.strip() for n in root.iterfind("./meta//label/name") if n.text and n.text.strip()]
        class_names = class_names or tuple(dict.fromkeys(labels))
        for image in root.iterfind("image"):
            try:
                rows.append(_rows(tree, name, len(rows), image, faults))
            except PhotoError as error:
                faults.append(Fault("missing-image", name, image.get("name", ""), str(error)))
                continue
            of_split.append(split_of(image.get("subset") or "") or split_of(stem(name)))
    split_of_photo = {row.photo.name: split for row, split in zip(rows, of_split, strict=True)}
    rows = one_of_each_photo(rows, faults)
    class_names = class_names or tuple(sorted({label for row in rows for label in row.names}))
    splits: dict[str, list[Annotation]] = {}
    for row, annotation in zip(rows, annotated(rows, tree, class_names, faults), strict=True):
        split = split_of_photo[row.photo.name] or split_of_pair(row.source, row.photo.name)
        splits.setdefault(split, []).append(annotation)
    return ParsedLayout(class_names, splits, faults, f"CVAT XML, recognised by {', '.join(files[:3])}")


def _rows(tree: Tree, source: str, number: int, image: Element, faults: list[Fault]) -> Rows:
    stated = image.get("name", "")
    here = folder_of(source)
    folders = [f"{here}/{f}".strip("/") for f in ("images", "data", "")]
    rows = Rows(
        photo=tree.photo(stated, beside=source, folders=folders),
        source=source,
        item=f"{stated}: shape {{}}",
        image_id=number,
        stated_size=as_size(image.get("width"), image.get("height")),
    )
    for i, shape in enumerate(shape for shape in image if shape.tag != "tag"):
        label = (shape.get("label") or "").strip()
        item = f"{stated}: shape {i + 1} ({label or 'without a label'})"
        if shape.tag in _WITHOUT_AREA:
            faults.append(Fault("zero-area", source, item, f"a {shape.tag} has no box"))
        elif (box := _box(shape)) is None or not label:
            faults.append(Fault("bad-entry", source, item, f"expected a <{shape.tag}> with a label and its numbers"))
        else:
            rows.add(box, label, i + 1)
    return rows


def _numbers(shape: Element, keys: Sequence[str]) -> list[float] | None:
    values = [as_number(shape.get(key)) for key in keys]
    return None if any(value is None for value in values) else values  # type: ignore[return-value]


def _box(shape: Element) -> Box | None:
    angle = as_number(shape.get("rotation")) or 0.0
    if shape.tag == "box":
        corners = _numbers(shape, ("xtl", "ytl", "xbr", "ybr"))
        if corners is None:
            return None
        x1, y1, x2, y2 = corners
        return around_turned((x1, y1, x2, y2), angle) if angle else (x1, y1, x2, y2)
    if shape.tag == "mask":
        sides = _numbers(shape, ("left", "top", "width", "height"))
        return None if sides is None else (sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3])
    if shape.tag == "ellipse":
        numbers = _numbers(shape, ("cx", "cy", "rx", "ry"))
        if numbers is None:
            return None
        x, y, rx, ry = numbers
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        w, h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        return (x - w, y - h, x + w, y + h)
    points = [point.split(",") for point in (shape.get("points") or "").split(";") if point.strip()]
    values = [tuple(as_number(v) for v in point) for point in points]
    if any(len(value) != 2 or None in value for value in values):
        return None
    return around(values)  # type: ignore[arg-type]
