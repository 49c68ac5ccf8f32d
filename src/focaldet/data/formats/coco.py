"""COCO: JSON files with images, annotations and categories.

Accepted places: ``annotations/*.json`` next to image folders; one JSON in each split's folder as exported by Roboflow
(``train/_annotations.coco.json``); ``labels.json`` next to ``data`` as in FiftyOne; or any other JSON file with this
content. Format: https://cocodataset.org/#format-data; a box is ``[x, y, width, height]`` in continuous pixel
coordinates. If it is missing, it is the box around the segmentation. https://arxiv.org/abs/1405.0312

Axes: A annotations of a file, N boxes of one image.
"""

import gc
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.data.formats.labelme import looks_like_labelme
from focaldet.data.formats.masks import mask_box
from focaldet.data.formats.unread import is_unread_json
from focaldet.data.formats.values import as_flag, as_id, as_number, as_size
from focaldet.data.likeness import split_of
from focaldet.data.records import Annotation, Fault, ParsedLayout
from focaldet.data.spelling import folder_of, stem
from focaldet.data.tree import AS_STATED, FoundPhoto, PhotoError, Tree

_KEYS = ("images", "annotations", "categories")

_BOX_KEYS = ("image_id", "category_id", "bbox", "area", "iscrowd")
"""Keys of an annotation that are read."""

_OTHERS = ("captions", "person_keypoints", "image_info", "panoptic", "stuff")
"""Name prefixes of COCO files with the same structure but no boxes."""

_NAME_KEYS = ("file_name", "filename", "path", "coco_url", "flickr_url")
"""Keys that may hold an image's file name; the last two are web addresses that end in it."""


def find_coco(tree: Tree) -> list[str]:
    """The files that are COCO annotations, sorted."""
    files = tree.with_suffix(".json")
    declared = [name for name in files if "annotations" in name.lower().split("/")[:-1]]
    # By their location, even if broken. A list is a results file; alone, it is a broken annotation file.
    declared = [name for name in declared if not looks_like_labelme(tree, name)]
    declared = [name for name in declared if not is_unread_json(tree, name) or _holds(tree, name, b'"images"')]
    declared = [name for name in declared if not _starts_with(tree, name, b"[")] or declared
    if not declared:
        declared = [name for name in files if _starts_with(tree, name, b"{") and _holds(tree, name, b'"images"')]
        declared = [name for name in declared if _holds(tree, name, b'"annotations"', b'"categories"')]
    return [name for name in declared if not stem(name).startswith(_OTHERS)] or declared


def _starts_with(tree: Tree, name: str, character: bytes) -> bool:
    return tree.head(name, 64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(character)


def _holds(tree: Tree, name: str, *words: bytes) -> bool:
    content = tree.read(name)
    return any(word in content for word in words)


def read_coco(tree: Tree, files: list[str]) -> ParsedLayout:
    """All annotation files of a COCO folder.

    Raises:
        InputError: a file as a whole is unusable, or two of them describe the same photos.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    # The training file's categories are the classes; the others must name the same ones.
    files = sorted(files, key=lambda name: _split(name) != "train")
    classes: dict[str, int | str] = {}
    splits: dict[str, list[Annotation]] = {}
    described_by: dict[tuple[str, str], str] = {}
    for name in files:
        document = _load(tree, name)
        split = _split(name)
        if "annotations" not in document and split not in ("train", "val") and len(files) > 1:
            notes.append(f"{name} lists {len(document['images']):,} photos without annotations: they are not used")
            continue
        _check_keys(document, name)
        if not classes:
            classes = _classes(document, name)
        annotations, found, said = _CocoFile(tree, name, document, tuple(classes)).read()
        for annotation in annotations:
            other = described_by.setdefault((split, str(annotation.path)), name)
            if other != name:
                raise InputError(
                    f"{tree.root}: both {other} and {name} describe the split {split or 'without a name'!r} and label "
                    f"{annotation.file_name}; keep one of them"
                )
        splits.setdefault(split, []).extend(annotations)
        faults += found
        notes += said
    if not classes:
        raise InputError(f"{files[0]}: the key 'annotations' is missing; a COCO file has {', '.join(_KEYS)}")
    description = f"COCO JSON, recognised by {', '.join(files[:3])}" + (
        f" and {len(files) - 3} more" * (len(files) > 3)
    )
    return ParsedLayout(tuple(classes), splits, faults, description, tuple(classes.values()), tuple(notes))


def _split(name: str) -> str:
    """The split that a file's name suggests, or else its nearest folder's name."""
    parts = [stem(name), *folder_of(name).split("/")[::-1]]
    return next(filter(None, map(split_of, parts)), "")


@contextmanager
def _no_collector() -> Iterator[None]:
    """Stop Python's garbage collector, which would scan a million new lists again and again for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(tree: Tree, name: str) -> dict[str, Any]:
    try:
        with _no_collector():
            document = json.loads(_text(tree, name), object_hook=_lean)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not readable as JSON ({error}); export the annotations again") from None
    if not isinstance(document, dict):
        raise InputError(f"{name}: expected a JSON object with {', '.join(_KEYS)}, got a {type(document).__name__}")
    if "images" not in document:
        raise InputError(f"{name}: the key 'images' is missing; a COCO file has {', '.join(_KEYS)}")
    _check_list(document, "images", name)
    return document


def _text(tree: Tree, name: str) -> str:
    """The text of a file in any encoding that JSON allows; its bytes are freed."""
    data = tree.read(name)
    return data.decode(json.detect_encoding(data), "surrogatepass")


def _lean(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with only the keys to read, and its segmentation as a box: polygons take most of a file's memory."""
    if "segmentation" in entry:
        mask = entry.pop("segmentation")
        if not entry.get("bbox") and (box := mask_box(mask)) is not None:
            x1, y1, x2, y2 = box
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return {key: entry[key] for key in _BOX_KEYS if key in entry} if "image_id" in entry else entry


def _check_keys(document: dict[str, Any], name: str) -> None:
    for key in _KEYS:
        if key not in document:
            raise InputError(f"{name}: the key {key!r} is missing; a COCO file has {', '.join(_KEYS)}")
        _check_list(document, key, name)


def _check_list(document: dict[str, Any], key: str, name: str) -> None:
    if not isinstance(document[key], list):
        raise InputError(f"{name}: {key!r} is a {type(document[key]).__name__}, expected a list")


def _category_names(document: dict[str, Any], source: str) -> dict[int | str, str]:
    names: dict[int | str, str] = {}
    for i, category in enumerate(document["categories"]):
        where = f"{source}: categories[{i}]"
        key = as_id(category.get("id")) if isinstance(category, dict) else None
        name = category.get("name") if isinstance(category, dict) else None
        if key is None or not isinstance(name, str | int | float) or isinstance(name, bool):
            raise InputError(f"{where}: expected an object with an 'id' and a 'name', got {category!r:.80}")
        if key in names:
            raise InputError(f"{where}: the id {key} occurs twice; give each category its own")
        names[key] = str(name)
    return names


def _classes(document: dict[str, Any], source: str) -> dict[str, int | str]:
    """Class name -> its id in the file, in the file's order."""
    names = _category_names(document, source)
    used = {as_id(a.get("category_id")) for a in document["annotations"] if isinstance(a, dict)}
    # A category that only groups others (Roboflow writes one, named after the project) is not a class.
    headings = {str(c.get("supercategory")) for c in document["categories"] if c.get("supercategory") != c["name"]}
    kept = [(name, key) for key, name in names.items() if key in used or name not in headings]
    classes = dict(kept)
    if not classes:
        raise InputError(f"{source}: no categories; list each class under 'categories'")
    if len(classes) < len(kept):
        raise InputError(f"{source}: two categories have the same name; rename one")
    return classes


class _CocoFile:
    """An annotation file being read."""

    def __init__(self, tree: Tree, source: str, document: dict[str, Any], class_names: tuple[str, ...]) -> None:
        self.tree, self.source, self.document, self.class_names = tree, source, document, class_names
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        label_of = {name: label for label, name in enumerate(class_names)}
        self.categories = _category_names(document, source)
        self.label_of = {key: label_of.get(name) for key, name in self.categories.items()}

    def fault(self, kind: str, item: str, problem: str) -> None:
        self.faults.append(Fault(kind, self.source, item, problem))

    def read(self) -> tuple[list[Annotation], list[Fault], list[str]]:
        entries, row_of = self._entries()
        boxes = self._boxes(row_of, len(entries))
        photos = self._photos(entries)
        annotations = []
        for row, entry in enumerate(entries):
            if (photo := photos[row]) is not None:
                annotations.append(self._annotation(entry, photo, boxes[row]))
        return annotations, self.faults, self.notes

    def _entries(self) -> tuple[list[dict[str, Any]], dict[int | str, int]]:
        """The first entry of each photo, and id -> its index; several entries with the same file are one photo."""
        entries: list[dict[str, Any]] = []
        row_of: dict[int | str, int] = {}
        row_of_name: dict[str, int] = {}
        twice = self._ids_of_two_files()
        for i, entry in enumerate(self.document["images"]):
            item = f"images[{i}]"
            if not isinstance(entry, dict):
                self.fault("bad-entry", item, f"expected an object, got {entry!r:.60}")
                continue
            key, name = as_id(entry.get("id")), _file_name(entry)
            if key is None:
                self.fault("bad-entry", item, f"expected a number or a word as 'id', got {entry.get('id')!r:.60}")
            elif not name:
                self.fault("bad-entry", item, f"expected a string 'file_name', got {entry.get('file_name')!r:.60}")
            elif key in twice:
                self.fault("duplicate-image", f"{item} ({name})", f"the id {key} is given to two files")
            else:
                row_of[key] = row_of_name.setdefault(name, len(entries))
                if row_of[key] == len(entries):
                    entries.append(entry | {"file_name": name})
        if len(row_of) > len(entries):
            self.notes.append(
                f"{self.source}: {len(row_of):,} entries under 'images' name {len(entries):,} files; entries with "
                "the same file count as one photo"
            )
        return entries, row_of

    def _ids_of_two_files(self) -> set[int | str]:
        """Ids shared by several photos, which makes their annotations ambiguous."""
        name_of: dict[int | str, str] = {}
        twice = set()
        for entry in self.document["images"]:
            key = as_id(entry.get("id")) if isinstance(entry, dict) else None
            if key is not None and (name := _file_name(entry)) and name_of.setdefault(key, name) != name:
                twice.add(key)
        return twice

    def _boxes(self, row_of: dict[int | str, int], count: int) -> list["_Boxes"]:
        """The boxes of each photo."""
        rows: list[int] = []
        numbers: list[int] = []
        labels: list[int] = []
        crowds: list[bool] = []
        sides: list[tuple[float, ...]] = []
        for i, entry in enumerate(self.document["annotations"]):
            read = self._annotation_entry(entry, row_of)
            if isinstance(read, Fault):
                self.fault(read.kind, f"annotations[{i}]", read.problem)
                continue
            row, label, numbers_of_box = read
            rows.append(row)
            numbers.append(i)
            labels.append(label)
            crowds.append(as_flag(entry.get("iscrowd", 0)))
            sides.append(numbers_of_box)
        order = np.argsort(np.array(rows, np.int64), kind="stable")
        starts = np.searchsorted(np.array(rows, np.int64)[order], np.arange(count + 1)).tolist()
        table = np.array(sides, np.float64).reshape(-1, 5)[order]
        table[:, 2:4] += table[:, :2]
        columns = (table, *(np.array(x)[order] for x in (labels, crowds, numbers)))
        return [tuple(column[a:b] for column in columns) for a, b in pairwise(starts)]

    def _annotation_entry(self, entry: Any, row_of: dict[int | str, int]) -> tuple[int, int, tuple[float, ...]] | Fault:
        """(index of its photo, label, (x, y, w, h, area)), or the fault."""

        def bad(problem: str, kind: str = "bad-entry") -> Fault:
            return Fault(kind, self.source, "", problem)

        if not isinstance(entry, dict):
            return bad(f"expected an object, got {entry!r:.60}")
        image, category = as_id(entry.get("image_id")), as_id(entry.get("category_id"))
        for key, value in (("image_id", image), ("category_id", category)):
            if value is None:
                problem = f"expected a number or a word, got {entry[key]!r:.60}" if key in entry else "it is missing"
                return bad(f"{key!r}: {problem}")
        if entry.get("bbox") is None:
            return bad("neither 'bbox' nor a segmentation")
        box = entry["bbox"]
        values = [as_number(v) for v in box] if isinstance(box, list) and len(box) == 4 else [None]
        if any(value is None for value in values):
            return bad(f"expected 'bbox' as four numbers, got {box!r:.60}")
        label = self.label_of.get(category)  # type: ignore[arg-type]
        if label is None:
            name = self.categories.get(category)  # type: ignore[arg-type]
            known = "not among the training file's categories" if name else "not under 'categories'"
            return bad(f"category {name or category!r} is {known}", "unknown-class")
        row = row_of.get(image)  # type: ignore[arg-type]
        if row is None:
            return bad(f"image_id {image!r:.60} is missing under 'images', or occurs there more than once")
        area = as_number(entry.get("area"))
        return row, label, (*values, math.nan if area is None else area)

    def _photos(self, entries: list[dict[str, Any]]) -> list[FoundPhoto | None]:
        """The photo of each entry; ``None`` if it is missing or belongs to another entry."""
        base = self._image_folder([entry["file_name"] for entry in entries])
        photos: list[FoundPhoto | None] = []
        for entry in entries:
            try:
                photos.append(self.tree.photo(entry["file_name"], beside=self.source, folders=base))
            except PhotoError as error:
                self.fault("missing-image", entry["file_name"], str(error))
                photos.append(None)
        best: dict[str, FoundPhoto] = {}
        for photo in photos:
            if photo is not None and photo.certainty > best.get(photo.name, FoundPhoto("", -1)).certainty:
                best[photo.name] = photo
        taken: dict[str, str] = {}
        for row, (entry, photo) in enumerate(zip(entries, photos, strict=True)):
            if photo is None:
                continue
            if photo.certainty < best[photo.name].certainty:
                self.fault("missing-image", entry["file_name"], f"the nearest photo, {photo.name}, is another entry's")
                photos[row] = None
            elif taken.setdefault(photo.name, entry["file_name"]) != entry["file_name"]:
                problem = f"it and {taken[photo.name]} are the same photo, {photo.name}"
                self.fault("duplicate-image", entry["file_name"], problem)
                photos[row] = None
        renamed = sum(photo is not None and photo.certainty == 0 for photo in photos)
        if renamed:
            self.notes.append(
                f"{self.source}: {renamed:,} photos have another suffix here, or their name before an upload"
            )
        return photos

    def _image_folder(self, names: list[str]) -> list[str]:
        """The folder that most of the paths are relative to."""
        here, split, own = folder_of(self.source), _split(self.source), stem(self.source).removeprefix("instances_")
        above = folder_of(here)
        folders = [here]
        for start in dict.fromkeys((above, "")):
            inner = [f for f in (own, split, "images", f"images/{own}", f"images/{split}", "data") if f]
            folders += [f"{start}/{f}".lstrip("/") for f in inner] + [start]
        sample = names[:: max(1, len(names) // 64)]
        best = max(folders, key=lambda folder: sum(self.tree.at(folder, name) is not None for name in sample))
        return [best]

    def _annotation(self, entry: dict[str, Any], photo: FoundPhoto, boxes: "_Boxes") -> Annotation:
        table, labels, crowds, numbers = boxes
        stated = PurePosixPath(entry["file_name"].replace("\\", "/"))
        as_stated = photo.certainty == AS_STATED and not stated.is_absolute() and ".." not in stated.parts
        return Annotation(
            path=self.tree.path(photo.name),
            file_name=stated.as_posix() if as_stated else photo.name,
            image_id=int(entry["id"]) if isinstance(entry["id"], float) else entry["id"],
            source=self.source,
            stated_size=as_size(entry.get("width"), entry.get("height")),
            boxes_xyxy=table[:, :4],
            labels=labels.astype(np.int64),
            ignored=crowds.astype(bool),
            numbers=numbers.astype(np.int64),
            item=f"{entry['file_name']}: annotations[{{}}]",
            class_names=self.class_names,
            areas=table[:, 4],
            form="size",
        )


_Boxes = tuple[NDArray[Any], ...]
"""Boxes of one photo: ``(N, 5)`` x1, y1, x2, y2, area; labels; whether each is a crowd; positions in the file."""


def _file_name(entry: dict[str, Any]) -> str:
    for key in _NAME_KEYS:
        value = entry.get(key)
        if isinstance(value, str) and value.strip():
            return value
    return ""
