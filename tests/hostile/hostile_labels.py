"""Labelled folders of every layout, and ways to damage them."""

import csv
import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError, fromstring, tostring

from hostile_mutations import MUTATIONS, VALUES, damaged
from hostile_paths import strange_path

sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))

from builders import CLASSES, PHOTOS, SIZE, coco_document, write_coco, write_photo, write_voc, write_yolo

LAYOUTS: dict[str, tuple[str, ...]] = {
    "COCO": ("coco", "annotations/*.json", "images/*"),
    "masks of COCO": ("masks", "annotations/*.json"),
    "Pascal VOC": ("voc", "Annotations/*", "JPEGImages/*"),
    "YOLO": ("yolo", "data.yaml", "*/labels/*", "*/images/*"),
    "LabelMe": ("labelme", "*.json", "*.jpg"),
    "CVAT": ("cvat", "*.xml", "images/*"),
    "CSV": ("csv", "*.csv", "images/*"),
}
"""Name of a layout -> the folder of its sample, and the files in it that are damaged."""


def write_layouts(folder: Path) -> None:
    """A valid folder of each layout."""
    write_coco(folder / "coco")
    write_voc(folder / "voc")
    write_yolo(folder / "yolo")
    _write_masks(folder / "masks")
    _write_labelme(folder / "labelme")
    _write_cvat(folder / "cvat")
    _write_csv(folder / "csv")


def _write_masks(root: Path) -> None:
    write_coco(root)
    document = coco_document(["a", "b"])
    masks: tuple[Any, ...] = (
        [[8, 8, 24, 8, 24, 40]], {"size": [48, 64], "counts": [100, 20, 2952]}, {"size": [48, 64], "counts": "52203"},
    )  # fmt: skip
    for entry, mask in zip(document["annotations"], masks, strict=True):
        entry |= {"segmentation": mask, "bbox": None}
    (root / "annotations" / "train.json").write_text(json.dumps(document))


def _write_labelme(root: Path) -> None:
    for name, boxes in PHOTOS.items():
        write_photo(root / f"{name}.jpg")
        shapes = [
            {"label": CLASSES[label], "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "flags": {}}
            for label, (x1, y1, x2, y2) in boxes
        ]
        document = {"shapes": shapes, "imagePath": f"{name}.jpg", "imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        (root / f"{name}.json").write_text(json.dumps(document))


def _write_cvat(root: Path) -> None:
    images = ""
    for number, (name, boxes) in enumerate(PHOTOS.items()):
        write_photo(root / "images" / f"{name}.jpg")
        shapes = "".join(
            f'<box label="{CLASSES[label]}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" rotation="10"/>'
            f'<polygon label="{CLASSES[label]}" points="{x1},{y1};{x2},{y1};{x2},{y2}"/>'
            for label, (x1, y1, x2, y2) in boxes
        )
        images += f'<image id="{number}" name="{name}.jpg" width="{SIZE[0]}" height="{SIZE[1]}">{shapes}</image>'
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    (root / "annotations.xml").write_text(
        f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>{images}</annotations>"
    )


def _write_csv(root: Path) -> None:
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name, boxes in PHOTOS.items():
        write_photo(root / "images" / f"{name}.jpg")
        lines += [f"{name}.jpg,{SIZE[0]},{SIZE[1]},{CLASSES[label]},{','.join(map(str, box))}" for label, box in boxes]
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


XML_STARTS = (
    f'<?xml version="1.0" encoding="{name}"?>'
    for name in ("xyz", "utf-7", "UTF-16", "hex", "zip", "rot13", "punycode", "unicode_escape", "latin-1", "\u00e4")
)
TEN_TIMES = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise("abcdefghi"))
ENTITIES = (
    f'<!DOCTYPE l [<!ENTITY a "aaaa">{TEN_TIMES}]>',
    '<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
    '<!DOCTYPE l SYSTEM "http://127.0.0.1:1/x.dtd">',
    "<!-- " + "x" * 5000 + " -->",
)
DOCUMENT_STARTS = (*XML_STARTS, *ENTITIES, "<a>" * 50_000)


def damaged_xml(data: bytes, rng: random.Random) -> bytes:
    """An XML document with a text or an attribute exchanged, or an element duplicated or removed."""
    choice = rng.random()
    if choice < 0.2:
        return damaged(data, rng)
    if choice < 0.35:
        return rng.choice(DOCUMENT_STARTS).encode() + data
    try:
        root = fromstring(data)
    except ParseError:
        return damaged(data, rng)
    element = rng.choice(list(root.iter()))
    value = str(rng.choice(VALUES)).encode(errors="replace").decode()
    if element.attrib and rng.random() < 0.5:
        element.set(rng.choice(sorted(element.attrib)), value)
    elif len(element) and rng.random() < 0.5:
        part = rng.choice(list(element))
        element.append(part) if rng.random() < 0.5 else element.remove(part)
    else:
        element.text = value
    return tostring(root)


def damaged_table(data: bytes, rng: random.Random) -> bytes:
    """A table, or lines of words, with a cell exchanged, removed or duplicated."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    text = data.decode(errors="replace")
    comma = "," in text
    rows = list(csv.reader(io.StringIO(text))) if comma else [line.split() for line in text.splitlines()]
    row = rng.choice(rows or [[]])
    if row:
        place = rng.randrange(len(row))
        value = str(rng.choice((*VALUES, "1_0", "\u0663", "1e400", "0x10", "=1+1", '"', "0.5 0.5")))
        match rng.randrange(4):
            case 0:
                del row[place]
            case 1:
                row.insert(place, value)
            case _:
                row[place] = value
    ending = rng.choice(("\n", "\n", "\r", "\r\n", "\0\n"))
    lines = [(rng.choice((",", ",", ";")) if comma else " ").join(row) for row in rows]
    return ending.join(lines).encode(rng.choice(("utf-8", "utf-8", "utf-16", "latin-1")), errors="replace")


def damaged_masks(data: bytes, rng: random.Random) -> bytes:
    """A COCO document with other masks."""
    if rng.random() < 0.5:
        return MUTATIONS[".json"](data, rng)
    document = json.loads(data)
    for entry in document["annotations"]:
        size = rng.choice(([48, 64], [64, 48], [2**19, 2**19], [0, 0], [-1, 5], [1.5, 2], "x", [48]))
        counts = rng.choice(
            ("o" * 200_000, "0" * 100_000, "", "\ud800", "`" * 9, [3072], [0, 3072], [10**30], [-5, 3077], [1] * 3072)
        )
        polygon = rng.choice(
            ([[]], [[1, 2, 3]], [[1e308, -1e308] * 3], [["a"]], [[[1, 2], [3, 4]]], [1, 2, 3, 4], [{}])
        )
        entry["segmentation"] = rng.choice(({"size": size, "counts": counts}, polygon))
    return json.dumps(document).encode()


def labels(layout: str, *patterns: str) -> Callable[[Path, Path, random.Random], list[object]]:
    """Cases of one layout: a file of its folder is damaged, or something else stands in its place."""

    def case(samples: Path, work: Path, rng: random.Random) -> list[object]:
        folder = work / "given" / layout
        shutil.copytree(samples / layout, folder)
        files = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
        file = rng.choice(files)
        if rng.random() < 0.15:
            file.unlink()
            strange_path(file, rng)
        else:
            how = MUTATIONS.get(file.suffix, damaged)
            how = {".xml": damaged_xml, ".csv": damaged_table, ".txt": damaged_table}.get(file.suffix, how)
            file.write_bytes((damaged_masks if layout == "masks" else how)(file.read_bytes(), rng))
        if rng.random() < 0.1:  # unrelated files
            name = rng.choice(("other.yaml", "notes.json", "x.csv", "y.xml", "z.txt", "w.names", "data.yml", "v.tsv"))
            other = samples / layout / rng.choice(files).relative_to(folder)
            (folder / name).write_bytes(damaged(other.read_bytes()[:5000], rng))
        match rng.randrange(5):
            case 0:
                return ["data", "convert", folder, "--out", work / "out", "--to", rng.choice(("coco", "voc", "yolo"))]
            case 1:
                return ["predict", samples / "cats.onnx", "--compare", folder, "--out", work / "out"]
            case _:
                return ["data", "check", folder, *(["--rescale"] if rng.random() < 0.2 else [])]

    return case
