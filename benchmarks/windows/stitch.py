"""Large photos from small ones: BCCD's photos in grids, with truth, and the same grids at a fifth of their scale.

    python -m benchmarks.windows.stitch --data BCCD --out DIR

makes ``DIR/full`` (grids of 6 × 5 photos: 3,840 × 2,400 px) and ``DIR/fifth`` (768 × 480 px), both in COCO form with
the splits of the source. Each photo of val and test is in one grid. Each one of train is in four, in another order:
otherwise an epoch of whole photos would be a single step. The last grid of an order is filled up with photos drawn at
random from the same split.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focaldet.data.folder import read_folder
from focaldet.data.records import ImageRecord
from focaldet.photos.images import read_photo
from focaldet.system.progress import progress_bar

COLUMNS, ROWS = 6, 5
FIFTH = 0.2
ORDERS = {"train": 4}
"""Split -> how often its photos are put into grids, if more than once."""


def grids(records: Sequence[ImageRecord], cells: int, rng: np.random.Generator) -> list[list[ImageRecord]]:
    """The photos in random order, in groups of so many; the last one is filled up."""
    order = rng.permutation(len(records)).tolist()
    missing = -len(order) % cells
    order += rng.choice(len(records), missing, replace=missing > len(records)).tolist()
    return [[records[i] for i in order[first : first + cells]] for first in range(0, len(order), cells)]


def stitch(cells: Sequence[ImageRecord], columns: int) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """(a grid of photos, its boxes xyxy, their labels); each cell has the size of the first photo."""
    width, height = cells[0].width, cells[0].height
    grid = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height))
    boxes, labels = [], []
    for place, record in enumerate(cells):
        left, top = width * (place % columns), height * (place // columns)
        photo = Image.fromarray(read_photo(record.path))
        if photo.size != (width, height):
            raise SystemExit(f"{record.path}: {photo.width} × {photo.height} px, not {width} × {height}")
        grid.paste(photo, (left, top))
        objects = ~record.ignored
        boxes.append(record.boxes_xyxy[objects] + np.array([left, top, left, top]))
        labels.append(record.labels[objects])
    return grid, np.concatenate(boxes), np.concatenate(labels)


def write_split(
    out: Path,
    split: str,
    photos: Sequence[tuple[Image.Image, np.ndarray, np.ndarray]],
    names: Sequence[str],
    scale: float,
) -> None:
    """The photos of a split at a scale, and their truth."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    (out / split).mkdir(exist_ok=True)
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    for number, (grid, boxes, labels) in enumerate(photos):
        name = f"{split}_{number:03d}.jpg"
        size = (round(grid.width * scale), round(grid.height * scale))
        seen = grid if scale == 1 else grid.resize(size, Image.Resampling.BILINEAR)
        seen.save(out / split / name, quality=95)
        coco["images"].append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for (x1, y1, x2, y2), label in zip((boxes * scale).tolist(), labels.tolist(), strict=True):
            annotation = {
                "id": len(coco["annotations"]) + 1,
                "image_id": number,
                "category_id": label + 1,
                "iscrowd": 0,
            }
            annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            coco["annotations"].append(annotation)
    (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco), encoding="utf-8")


def make(data: Path, out: Path, *, columns: int = COLUMNS, rows: int = ROWS, seed: int = 0) -> None:
    """Write both folders."""
    with progress_bar("reading headers") as progress:
        folder = read_folder(data, seed=seed, progress=progress)
    rng = np.random.default_rng(seed)
    for split, records in folder.splits.items():
        orders = [grids(records, columns * rows, rng) for _ in range(ORDERS.get(split, 1))]
        photos = [stitch(cells, columns) for order in orders for cells in order]
        for name, scale in (("full", 1.0), ("fifth", FIFTH)):
            write_split(out / name, split, photos, folder.class_names, scale)
        boxes = sum(len(boxes) for _, boxes, _ in photos)
        print(f"{split}: {len(photos)} grids of {len(records)} photos, {boxes:,} boxes")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled photos of one size")
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--seed", type=int, default=0, help="order of the photos (default: 0)")
    chosen = parser.parse_args()
    make(chosen.data, chosen.out, seed=chosen.seed)


if __name__ == "__main__":
    main()
