"""Drawn digits that replace the photos of blood cells and COCO in a checkout without ../shared/data."""

import atexit
import json
import shutil
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from focaldet.data.digits import make_digits

CELLS = ("RBC", "WBC", "Platelets")

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"

SIZES = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (612, 612), (640, 360))

CATEGORY_IDS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 90)
"""Category ids of the ten digits, with gaps like COCO's."""


@cache
def drawn_cells() -> Path:
    """A folder like BCCD: the same classes, in photos of the same size, each with objects."""
    digits, root = _digits(train=12, val=1), _new_folder()
    document = json.loads((digits / "annotations" / "train.json").read_text())
    objects = defaultdict(list)
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        name = CELLS[annotation["category_id"] % len(CELLS)]
        objects[annotation["image_id"]].append(OBJECT.format(name, x, y, x + width, y + height))
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir()
    for image in document["images"]:
        if found := objects[image["id"]]:
            name, size = Path(image["file_name"]), "<size><width>{width}</width><height>{height}</height></size>"
            text = f"<annotation>{size.format(**image)}{''.join(found)}</annotation>"
            (root / "Annotations" / f"{name.stem}.xml").write_text(text)
            shutil.copy(digits / "images" / "train" / name, root / "JPEGImages")
    return root


@cache
def drawn_coco() -> Path:
    """A folder like COCO's: photos of many sizes, ids with gaps, areas of outlines, one crowd per split."""
    digits, root = _digits(train=4, val=16), _new_folder()
    for folder in ("images", "annotations"):
        (root / folder).mkdir()
    for split, first_id in (("train", 30), ("val", 1030)):
        document = json.loads((digits / "annotations" / f"{split}.json").read_text())
        for category, key in zip(document["categories"], CATEGORY_IDS, strict=True):
            category["id"] = key
        ids, scales = {}, {}
        for number, image in enumerate(document["images"]):
            size = SIZES[number % len(SIZES)]
            scales[image["id"]] = (size[0] / image["width"], size[1] / image["height"])
            ids[image["id"]] = first_id + 7 * number
            _resize(digits / "images" / split / image["file_name"], root / "images", size)
            image |= {"id": ids[image["id"]], "width": size[0], "height": size[1]}
        for annotation in document["annotations"]:
            _place(annotation, *scales[annotation["image_id"]])
            annotation["image_id"] = ids[annotation["image_id"]]
        document["annotations"][-1]["iscrowd"] = 1
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return root


def _place(annotation: dict[str, Any], across: float, down: float) -> None:
    x, y, width, height = annotation["bbox"]
    annotation["bbox"] = [x * across, y * down, width * across, height * down]
    annotation["area"] = 0.6 * width * across * height * down  # area of the digit in the box
    annotation["category_id"] = CATEGORY_IDS[annotation["category_id"] - 1]


def _resize(photo: Path, folder: Path, size: tuple[int, int]) -> None:
    with Image.open(photo) as image:
        image.resize(size).save(folder / photo.name, quality=92)


def _digits(**counts: int) -> Path:
    return make_digits(_new_folder() / "digits", test=1, size=640, **counts)


def _new_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="focaldet-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
