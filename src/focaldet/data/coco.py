"""The COCO layout: JSON files with images, annotations and categories.

Accepted places: ``annotations/*.json`` beside image folders, one JSON in each split's folder as Roboflow exports it
(``train/_annotations.coco.json``), or ``*.json`` at the top. Format: https://cocodataset.org/#format-data; a box is
``[x, y, width, height]`` in continuous pixel coordinates. https://arxiv.org/abs/1405.0312
"""

import json
import math
from os.path import isfile
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from focaldet.checks import InputError
from focaldet.data.paths import inside, relative_name, split_of
from focaldet.data.records import Annotation, Fault, ParsedLayout

_KEYS = ("images", "annotations", "categories")

_Row = tuple[str, list[float], int, bool, float]
"""Item, box, label, whether it is a crowd, stated area."""


def find_coco(root: Path) -> list[Path]:
    """The files that are COCO annotations, sorted."""
    # Captions and key points come in files of the same shape beside COCO's boxes.
    others = ("captions", "person_keypoints", "image_info", "panoptic", "stuff")
    declared = sorted(p for p in root.glob("annotations/*.json") if not p.name.startswith(others))
    if declared:
        # A list is a file of results; alone it is a broken annotation file, and reading it says so.
        return [p for p in declared if not _starts_with(p, b"[")] or declared
    candidates = sorted({*root.glob("*/*.coco.json"), *root.glob("*.json")})
    return [p for p in candidates if _starts_with(p, b"{") and b'"images"' in p.read_bytes()]


def _starts_with(path: Path, character: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(character)


def read_coco(root: Path, files: list[Path]) -> ParsedLayout:
    """All annotation files of a COCO folder.

    Raises:
        InputError: a file as a whole is unusable, or a file name leaves the folder.
    """
    splits: dict[str, list[Annotation]] = {}
    faults: list[Fault] = []
    documents = [(path, _load(path, root)) for path in files]
    # The training file's categories are the classes; the others must name the same ones.
    documents.sort(key=lambda item: split_of(_split_name(item[0], root)) != "train")
    class_names = _class_names(*documents[0], root)
    of_split: dict[str, Path] = {}
    for path, document in documents:
        split = split_of(_split_name(path, root))
        if of_split.setdefault(split, path) != path:
            both = f"{relative_name(of_split[split], root)} and {relative_name(path, root)}"
            raise InputError(f"{root}: both {both} describe the split {split or 'without a name'!r}; keep one")
        splits[split], found = _CocoFile(path, document, root, class_names).read()
        faults += found
    names = ", ".join(relative_name(p, root) for p in files)
    id_of = {name: key for key, name in _category_names(*documents[0], root).items()}
    description = f"COCO JSON, recognised by {names}"
    return ParsedLayout(class_names, splits, faults, description, tuple(id_of[name] for name in class_names))


def _split_name(path: Path, root: Path) -> str:
    return path.stem if split_of(path.stem) or path.parent == root else path.parent.name


def _load(path: Path, root: Path) -> dict[str, Any]:
    name = relative_name(path, root)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not readable as JSON ({error}); export the annotations again") from None
    if not isinstance(document, dict):
        raise InputError(f"{name}: expected a JSON object with {', '.join(_KEYS)}, got a {type(document).__name__}")
    for key in _KEYS:
        if key not in document:
            raise InputError(f"{name}: the key {key!r} is missing; a COCO file has {', '.join(_KEYS)}")
        if not isinstance(document[key], list):
            raise InputError(f"{name}: {key!r} is a {type(document[key]).__name__}, expected a list")
    return document


def _category_names(path: Path, document: dict[str, Any], root: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for i, category in enumerate(document["categories"]):
        where = f"{relative_name(path, root)}: categories[{i}]"
        if (
            not isinstance(category, dict)
            or not _is_int(category.get("id"))
            or not isinstance(category.get("name"), str)
        ):
            raise InputError(
                f"{where}: expected an object with an integer 'id' and a string 'name', got {category!r:.80}"
            )
        if category["id"] in names:
            raise InputError(f"{where}: the id {category['id']} is there twice; give each category its own")
        names[category["id"]] = category["name"]
    return names


def _class_names(path: Path, document: dict[str, Any], root: Path) -> tuple[str, ...]:
    names = _category_names(path, document, root)
    used = {a.get("category_id") for a in document["annotations"] if isinstance(a, dict)}
    # A category that only heads others (Roboflow writes one, named after the project) is not a class.
    headings = {c.get("supercategory") for c in document["categories"] if c.get("supercategory") != c["name"]}
    classes = tuple(name for key, name in names.items() if key in used or name not in headings)
    if not classes:
        raise InputError(f"{relative_name(path, root)}: no categories; list each class under 'categories'")
    if len(set(classes)) < len(classes):
        raise InputError(f"{relative_name(path, root)}: two categories have the same name; rename one")
    return classes


class _CocoFile:
    """One annotation file on its way to annotations."""

    def __init__(self, path: Path, document: dict[str, Any], root: Path, class_names: tuple[str, ...]) -> None:
        self.path, self.document, self.root = path, document, root
        self.source = relative_name(path, root)
        self.faults: list[Fault] = []
        self.categories = _category_names(path, document, root)
        self.label_of = {name: label for label, name in enumerate(class_names)}

    def fault(self, kind: str, item: str, problem: str) -> None:
        self.faults.append(Fault(kind, self.source, item, problem))

    def read(self) -> tuple[list[Annotation], list[Fault]]:
        images = self._images()
        rows: dict[int, list[_Row]] = {key: [] for key in images}
        for i, entry in enumerate(self.document["annotations"]):
            self._annotation(f"annotations[{i}]", entry, rows)
        folder = self._image_folder([image["file_name"] for image in images.values()])
        return [self._join(images[key], rows[key], folder) for key in images], self.faults

    def _images(self) -> dict[int, dict[str, Any]]:
        images: dict[int, dict[str, Any]] = {}
        names: set[str] = set()
        for i, image in enumerate(self.document["images"]):
            item = f"images[{i}]"
            if not isinstance(image, dict):
                self.fault("bad-entry", item, f"expected an object, got {image!r:.60}")
            elif not _is_int(image.get("id")):
                self.fault("bad-entry", item, f"expected an integer 'id', got {image.get('id')!r:.60}")
            elif not isinstance(image.get("file_name"), str) or not image["file_name"]:
                self.fault("bad-entry", item, f"expected a string 'file_name', got {image.get('file_name')!r:.60}")
            elif image["id"] in images:
                self.fault("duplicate-image", f"{item} ({image['file_name']})", f"the id {image['id']} is taken")
            elif image["file_name"] in names:
                self.fault("duplicate-image", f"{item} ({image['file_name']})", "the file is listed twice")
            else:
                inside(self.root, image["file_name"], self.source)
                names.add(image["file_name"])
                images[image["id"]] = image
        return images

    def _annotation(self, item: str, entry: Any, rows: dict[int, list[_Row]]) -> None:
        if not isinstance(entry, dict):
            return self.fault("bad-entry", item, f"expected an object, got {entry!r:.60}")
        for key in ("image_id", "category_id", "bbox"):
            if key not in entry:
                return self.fault("bad-entry", item, f"the key {key!r} is missing")
        if not _is_int(entry["image_id"]) or not _is_int(entry["category_id"]):
            return self.fault("bad-entry", item, "'image_id' and 'category_id' must be integers")
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
            return self.fault("bad-entry", item, f"expected 'bbox' as four numbers, got {box!r:.60}")
        name = self.categories.get(entry["category_id"])
        if name not in self.label_of:
            known = "not among the training file's categories" if name else "not under 'categories'"
            return self.fault("unknown-class", item, f"category {name or entry['category_id']!r} is {known}")
        if entry["image_id"] not in rows:
            return self.fault("bad-entry", item, f"image_id {entry['image_id']} is not under 'images'")
        try:
            x, y, w, h = (float(v) for v in box)
        except OverflowError:
            return self.fault("bad-entry", item, "a number in 'bbox' is too large")
        area: Any = entry.get("area")
        stated = float(area) if _is_number(area) and abs(area) < 1e300 else math.nan
        row = (f"{item} ({name})", [x, y, x + w, y + h], self.label_of[name], bool(entry.get("iscrowd", 0)), stated)
        rows[entry["image_id"]].append(row)
        return None

    def _image_folder(self, names: list[str]) -> Path:
        split, stem = split_of(_split_name(self.path, self.root)), self.path.stem
        named = [p for p in (stem.removeprefix("instances_"), split) if p]
        folders = [self.path.parent, *(self.root / p for p in named)]
        folders += [*(self.root / "images" / p for p in named), self.root / "images", self.root]
        sample = names[:: max(1, len(names) // 16)]
        return max(folders, key=lambda folder: sum(isfile(folder / name) for name in sample))

    def _join(self, image: dict[str, Any], rows: list[_Row], folder: Path) -> Annotation:
        width, height = image.get("width"), image.get("height")
        return Annotation(
            path=inside(folder, image["file_name"], self.source),
            file_name=image["file_name"].replace("\\", "/"),
            image_id=image["id"],
            source=self.source,
            stated_size=(width, height) if _is_int(width) and _is_int(height) and width > 0 and height > 0 else None,
            boxes_xyxy=np.array([r[1] for r in rows], np.float64).reshape(-1, 4),
            labels=np.array([r[2] for r in rows], np.int64),
            ignored=np.array([r[3] for r in rows], bool),
            items=tuple(f"{image['file_name']}: {r[0]}" for r in rows),
            areas=np.array([r[4] for r in rows], np.float64),
        )


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # 1e999 parses as infinity and NaN as NaN: those are numbers of a faulty box, told as such later.
    return isinstance(value, int | float) and not isinstance(value, bool)
