"""Pascal VOC: one XML file per image.

Accepted places: ``JPEGImages``, ``Annotations`` and ``ImageSets/Main/{train,val,trainval,test}.txt`` as in VOC, at the
top or in folders (``VOC2007``); the same with other folder names; or images and XML files side by side, for example in
one folder per split as exported by Roboflow.

VOC counts pixels from 1 and a box contains its last pixel (development kit: xmin, ymin, xmax, ymax are pixel
indices). In continuous coordinates, where 0 is the left edge of the first pixel, that is
``[xmin - 1, ymin - 1, xmax, ymax]``: the box 1..640 spans an image 640 wide. A box with xmin not smaller than xmax is
still a fault: no tool writes a one-pixel object on purpose.
"""

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from focaldet.checks import InputError
from focaldet.data.formats.rows import (
    Rows,
    annotated,
    around_turned,
    listed_classes,
    one_of_each_photo,
    split_of_pair,
    unlabelled,
)
from focaldet.data.formats.values import as_number, as_size, read_lines
from focaldet.data.formats.xml_file import parse_xml, root_element
from focaldet.data.records import Annotation, Fault, ParsedLayout
from focaldet.data.spelling import folder_of, stem
from focaldet.data.tree import PhotoError, Tree

_SIDES = ("xmin", "ymin", "xmax", "ymax")

_CLASS_LISTS = ("labels.txt", "classes.txt")


def find_voc(tree: Tree) -> list[str]:
    """The annotation files, sorted: those in folders called Annotations, else all XML files."""
    files = [name for name in tree.with_suffix(".xml") if root_element(tree, name) != "annotations"]
    declared = [name for name in files if "annotations" in name.lower().split("/")[:-1]]
    return declared or files


def read_voc(tree: Tree, files: list[str]) -> ParsedLayout:
    """Read all annotation files of a VOC folder.

    Classes are the names that occur, sorted, or the lines of ``labels.txt`` or ``classes.txt`` if there is one.

    Raises:
        InputError: an XML file declares entities or refers to others, or a list of images is unusable.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    rows = []
    for number, name in enumerate(files):
        try:
            root = parse_xml(tree, name)
            if root.tag != "annotation":
                raise ValueError(f"expected <annotation>, got <{root.tag}>")
            rows.append(_rows(tree, name, number, root, faults))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            faults.append(Fault("unreadable-annotation", name, "", str(error)))
        except PhotoError as error:
            faults.append(Fault("missing-image", name, "", str(error)))
    named = {stem(name) for name in files}
    rows = one_of_each_photo(rows, faults)
    if _counts_from_zero(rows):
        notes.append("boxes begin at 0: these files count pixels from 0, where Pascal VOC counts from 1")
        for row in rows:
            row.boxes = [(x1 + 1, y1 + 1, x2, y2) for x1, y1, x2, y2 in row.boxes]
    class_names = listed_classes(tree, _CLASS_LISTS) or tuple(sorted({n for row in rows for n in row.names}))
    annotations = dict(zip((row.source for row in rows), annotated(rows, tree, class_names, faults), strict=True))
    splits = _listed_splits(tree, annotations, faults)
    if splits is None:
        splits = {}
        for source, annotation in annotations.items():
            splits.setdefault(split_of_pair(source, annotation.file_name), []).append(annotation)
        faults += unlabelled(tree, rows, named, "XML file")
    folder = folder_of(files[0]) or "the folder itself"
    description = f"Pascal VOC, recognised by {len(files):,} XML files in {folder}"
    return ParsedLayout(class_names, splits, faults, description, notes=tuple(notes))


def _counts_from_zero(rows: Sequence[Rows]) -> bool:
    """Whether boxes that touch the left or the upper border begin at 0 instead of 1."""
    begins = [min(box[0], box[1]) + 1 for row in rows for box in row.boxes]
    return sum(begin < 0.5 for begin in begins) > sum(0.5 <= begin < 1.5 for begin in begins)


def _rows(tree: Tree, name: str, number: int, root: Element, faults: list[Fault]) -> Rows:
    filename, folder = _text(root, "filename"), _text(root, "folder")
    stated = [_text(root, "path"), f"{folder}/{filename}" if folder and filename else "", filename]
    photo = tree.photo_of(name, [path for path in stated[::-1] if path])
    bare = photo.name.rpartition("/")[2]
    size = root.find("size")
    rows = Rows(
        photo=photo,
        source=name,
        item="object {}",
        image_id=number,
        file_name=bare if folder_of(photo.name) == "JPEGImages" else photo.name,
        stated_size=None if size is None else as_size(_text(size, "width"), _text(size, "height")),
    )
    for i, entry in enumerate(root.findall("object")):
        label = _text(entry, "name")
        item = f"object {i + 1} ({label or 'without a name'})"
        corners = _corners(entry)
        if corners is None:
            faults.append(Fault("bad-entry", name, item, "expected a <bndbox> with the numbers xmin ymin xmax ymax"))
        elif not label:
            faults.append(Fault("unknown-class", name, item, "its <name> is empty"))
        elif corners[2] == corners[0] or corners[3] == corners[1]:  # the - 1 below would give them an area
            problem = ", ".join(f"{side} {value:g}" for side, value in zip(_SIDES, corners, strict=True))
            faults.append(Fault("zero-area", name, item, problem))
        else:
            rows.add((corners[0] - 1, corners[1] - 1, corners[2], corners[3]), label, i + 1)
    return rows


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _numbers(element: Element | None, tags: Sequence[str]) -> list[float] | None:
    if element is None:
        return None
    values = [as_number(_text(element, tag)) for tag in tags]
    return None if any(value is None for value in values) else values  # type: ignore[return-value]


def _corners(entry: Element) -> Sequence[float] | None:
    if (corners := _numbers(entry.find("bndbox"), _SIDES)) is not None:
        return corners
    # A rotated box of roLabelImg; its angle is in radians.
    turned = _numbers(entry.find("robndbox"), ("cx", "cy", "w", "h", "angle"))
    if turned is None:
        return None
    x, y, w, h, angle = turned
    return around_turned((x - w / 2, y - h / 2, x + w / 2, y + h / 2), angle * 57.29577951308232)


def _listed_splits(
    tree: Tree, annotations: dict[str, Annotation], faults: list[Fault]
) -> dict[str, list[Annotation]] | None:
    """The splits of ``ImageSets/Main`` in each folder that has one; ``None`` if there is none.

    Lists of single classes (``cat_train.txt``) are parts of a split. PaddleDetection's lists are at the top.
    """
    texts = tree.with_suffix(".txt")
    lists = [name for name in texts if folder_of(name).endswith("ImageSets/Main")]
    lists = lists or [name for name in texts if folder_of(name).endswith("ImageSets")]
    lists = lists or [name for name in texts if not folder_of(name)]
    for wanted in (("train", "val", "test"), ("trainval",), ("_train", "_val", "_test")):
        if chosen := [name for name in lists if stem(name).endswith(wanted) and _whole(stem(name), wanted)]:
            break
    else:
        return None
    lists = chosen
    broken = {fault.file for fault in faults}
    splits: dict[str, list[Annotation]] = {}
    for source in sorted(lists, key=lambda name: ("train", "val", "test").index(_split_of_list(name))):
        root = source.partition("ImageSets")[0] if "ImageSets" in source else ""
        by_name = _listed_names(root, annotations)
        found = splits.setdefault(_split_of_list(source), [])
        names = [_listed(line, by_name) for line in read_lines(tree.path(source), source)]
        used = 0
        for name in dict.fromkeys(names):
            if (annotation := by_name.get(name)) is not None:
                if not any(annotation is other for other in found[: used or None]):
                    found.append(annotation)
                used += 1
            elif not any(file.endswith(f"/{name}.xml") for file in broken):
                faults.append(Fault("missing-annotation", source, name, f"there is no Annotations/{name}.xml"))
        for name in sorted(name for name, times in Counter(names).items() if times > 1):
            faults.append(Fault("duplicate-image", source, name, "listed twice"))
        if not used:
            raise InputError(f"{source}: none of its {len(names)} images is usable; check the names in it")
    return splits


def _whole(name: str, wanted: Sequence[str]) -> bool:
    return name in wanted or wanted[0].startswith("_")


def _split_of_list(name: str) -> str:
    return stem(name).rpartition("_")[2].replace("trainval", "train")


def _listed_names(root: str, annotations: dict[str, Annotation]) -> dict[str, Annotation]:
    """The annotations below a folder by each name that a list may use: path or bare name of the label or the photo."""
    names: dict[str, Annotation] = {}
    for source, annotation in annotations.items():
        if source.startswith(root):
            path = source.removeprefix(root).removesuffix(".xml").removesuffix(".XML")
            names[path.partition("/")[2] or path] = annotation
            names.setdefault(path.rpartition("/")[2], annotation)
    return names


def _listed(line: str, by_name: dict[str, Annotation]) -> str:
    """The name in a line of a list, which may have a suffix, folders, or be followed by a flag (1, 0, -1)."""
    path = line.replace("\\", "/")
    names = [path, re.sub(r"\s+(?:-1|0|1)$", "", path), path.split()[0]]
    names += [re.sub(r"\.\w{1,5}$", "", name) for name in names]
    names += [name.rpartition("/")[2] for name in names]
    return next((name for name in names if name in by_name), names[3])
