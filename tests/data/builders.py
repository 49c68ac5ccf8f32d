"""Small folders of labelled photos, written for a test."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (64, 48)
CLASSES = ("cat", "dog")
PHOTOS: dict[str, list[tuple[int, tuple[int, int, int, int]]]] = {
    "a": [(0, (8, 8, 24, 40)), (1, (32, 4, 64, 24))],
    "b": [(1, (0, 0, 16, 12))],
    "c": [],
}
"""Name -> its boxes as (label, (x1, y1, x2, y2)) in continuous pixels."""


def write_photo(path: Path, size: tuple[int, int] = SIZE, **save_options: object) -> Path:
    """A photo whose pixels depend on its name, so that no two are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path, **save_options)
    return path


def coco_document(names: list[str]) -> dict:
    """The photos of these names as a COCO document."""
    images, annotations = [], []
    for i, name in enumerate(names):
        images.append({"id": i + 10, "file_name": f"{name}.jpg", "width": SIZE[0], "height": SIZE[1]})
        for label, (x1, y1, x2, y2) in PHOTOS[name]:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "image_id": i + 10, "category_id": (label + 1) * 5}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, **box})
    categories = [{"id": (i + 1) * 5, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, splits: dict[str, list[str]] | None = None) -> Path:
    """``annotations/<split>.json`` and ``images/``; returns the training file."""
    splits = splits or {"train": ["a", "b"], "val": ["c"]}
    for split, names in splits.items():
        for name in names:
            write_photo(root / "images" / f"{name}.jpg")
        file = root / "annotations" / f"{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(coco_document(names)))
    return root / "annotations" / "train.json"


def edit_json(path: Path, change) -> None:
    """Load, change in place, save."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def voc_xml(name: str, objects: list[tuple[str, tuple]], size: tuple[int, int] = SIZE) -> str:
    """A VOC annotation; the corners are written as given."""
    rows = "".join(
        f"<object><name>{label}</name><difficult>1</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for label, b in objects
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{stated}{rows}</annotation>"


def write_voc(root: Path, splits: dict[str, list[str]] | None = None) -> Path:
    """``JPEGImages``, ``Annotations`` and, when splits are given, ``ImageSets/Main``."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for name, boxes in PHOTOS.items():
        write_photo(root / "JPEGImages" / f"{name}.jpg")
        objects = [(CLASSES[label], (x1 + 1, y1 + 1, x2, y2)) for label, (x1, y1, x2, y2) in boxes]
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(name, objects))
    for split, names in (splits or {}).items():
        file = root / "ImageSets" / "Main" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names))
    return root


def yolo_lines(boxes: list[tuple[int, tuple[int, int, int, int]]], size: tuple[int, int] = SIZE) -> str:
    """The lines of a label file."""
    w, h = size
    return "".join(
        f"{label} {(x1 + x2) / 2 / w} {(y1 + y2) / 2 / h} {(x2 - x1) / w} {(y2 - y1) / h}\n"
        for label, (x1, y1, x2, y2) in boxes
    )


def write_yolo(root: Path, splits: dict[str, list[str]] | None = None) -> Path:
    """``data.yaml``, ``<split>/images`` and ``<split>/labels``; photos without boxes get no label file."""
    splits = splits or {"train": ["a", "b"], "valid": ["c"]}
    for split, names in splits.items():
        for name in names:
            write_photo(root / split / "images" / f"{name}.jpg")
            (root / split / "labels").mkdir(exist_ok=True)
            if PHOTOS[name]:
                (root / split / "labels" / f"{name}.txt").write_text(yolo_lines(PHOTOS[name]))
    keys = {"train": "train", "valid": "val", "test": "test"}
    lines = [f"names: [{', '.join(CLASSES)}]", *(f"{keys[split]}: ../{split}/images" for split in splits)]
    (root / "data.yaml").write_text("\n".join(lines) + "\n")
    return root


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b""))
    return path
