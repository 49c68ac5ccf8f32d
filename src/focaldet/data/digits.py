"""A small data set for detection, generated on demand: handwritten digits on photos, from data in scikit-learn.

The digits are scikit-learn's copy of the UCI handwritten digits (1797 scans of 8 × 8 pixels); each split pastes scans
that no other split uses. The backgrounds are crops of its two sample photos, china.jpg and flower.jpg (both CC BY 2.0,
authors in scikit-learn's ``datasets/images/README.txt``). Digit k is drawn with a probability proportional to
1 / (k + 1), a long tail of 10 : 1.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from focaldet.checks import InputError

FREQUENCIES = (1 / np.arange(1, 11)) / (1 / np.arange(1, 11)).sum()
"""Probability of each digit."""

EMPTY_FRACTION = 0.08
"""Share of images without a digit."""

_MASTER = 96
"""Side in pixels at which a scan is rotated before it is scaled."""


def make_digits(
    root: str | Path, *, seed: int = 0, train: int = 800, val: int = 80, test: int = 160, size: int = 224
) -> Path:
    """Write the set in COCO layout; images are ``size`` × ``3/4 size`` pixels.

    The folder appears complete or not at all. A folder with the same set is left unchanged. With the same versions of
    the libraries, equal arguments give equal files, byte for byte.

    Args:
        train, val, test: numbers of images.

    Raises:
        InputError: ``root`` holds something else, or cannot be written.
    """
    root = Path(root)
    info = {
        "description": "focaldet digits",
        "sources": "scikit-learn's digits (UCI) and its photos china.jpg and flower.jpg (CC BY 2.0)",
        **{"seed": seed, "train": train, "val": val, "test": test, "size": size},
    }
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        if _info(root) == info:
            return root
        raise InputError(f"{root}: holds something other than this digits set; remove it or name another folder")
    temporary = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
        temporary.chmod(0o755)
        scans = _scans_by_split(seed, {"train": train, "val": val, "test": test})
        for number, (split, count) in enumerate({"train": train, "val": val, "test": test}.items()):
            _write_split(temporary, split, count, (size, size * 3 // 4), scans[split], (seed, number), info)
        os.replace(temporary, root)
    except OSError as error:
        raise InputError(
            f"{root}: cannot be written ({error.strerror or error}); free space or choose another"
        ) from None
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary)
    return root


def _info(root: Path) -> Any:
    try:
        return json.loads((root / "annotations" / "train.json").read_text())["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scans_by_split(seed: int, counts: dict[str, int]) -> dict[str, list[NDArray[np.float32]]]:
    """Split -> ten stacks ``(n, 8, 8)`` in [0, 1], one per digit; no scan is in two splits."""
    from sklearn.datasets import load_digits  # importing scikit-learn takes a second

    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    images, labels = (bunch.images[order] / 16).astype(np.float32), bunch.target[order]
    bounds = {"train": (0.0, 0.7), "val": (0.7, 0.85), "test": (0.85, 1.0)}
    scans = {}
    for split in counts:
        low, high = (int(b * len(labels)) for b in bounds[split])
        scans[split] = [images[low:high][labels[low:high] == digit] for digit in range(10)]
    return scans


def _write_split(
    root: Path,
    split: str,
    count: int,
    size: tuple[int, int],
    scans: list[NDArray[np.float32]],
    seed: tuple[int, int],
    info: dict[str, Any],
) -> None:
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    folder = root / "images" / split
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        picture, boxes, digits = draw_digits(np.random.default_rng((*seed, i)), size, scans, photos)
        name = f"{split}_{i:05d}.jpg"
        picture.save(folder / name, quality=92)
        images.append({"id": i + 1, "file_name": name, "width": size[0], "height": size[1]})
        for (x1, y1, x2, y2), digit in zip(boxes, digits, strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": digit + 1, "iscrowd": 0}
            annotations.append(annotation | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": d + 1, "name": str(d), "supercategory": "digit"} for d in range(10)]
    document = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(document))


def draw_digits(
    rng: np.random.Generator, size: tuple[int, int], scans: list[NDArray[np.float32]], photos: list[Image.Image]
) -> tuple[Image.Image, list[tuple[int, int, int, int]], list[int]]:
    """A picture of ``size`` (width, height), the tight boxes of its digits (x1, y1, x2, y2), and the digits."""
    canvas = _background(rng, size, photos[rng.integers(len(photos))])
    boxes: list[tuple[int, int, int, int]] = []
    digits: list[int] = []
    wanted = 0 if rng.random() < EMPTY_FRACTION else int(rng.integers(4, 15))
    for _ in range(wanted):
        digit = int(rng.choice(10, p=FREQUENCIES))
        scan = scans[digit][rng.integers(len(scans[digit]))]
        height = int(size[1] * np.exp(rng.uniform(np.log(0.14), np.log(0.5))))
        mask = _ink_mask(rng, scan, height)
        for _ in range(20):  # try positions until one hardly covers any other digit
            x = int(rng.integers(0, size[0] - mask.shape[1] + 1))
            y = int(rng.integers(0, size[1] - mask.shape[0] + 1))
            box = (x, y, x + mask.shape[1], y + mask.shape[0])
            if all(_overlap(box, other) < 0.2 for other in boxes):
                _paint(rng, canvas[y : box[3], x : box[2]], mask)
                boxes.append(box)
                digits.append(digit)
                break
    canvas += np.float32(rng.uniform(1, 6)) * rng.standard_normal(canvas.shape, np.float32)  # sensor noise
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.1)))
    return picture, boxes, digits


def _background(rng: np.random.Generator, size: tuple[int, int], photo: Image.Image) -> NDArray[np.float32]:
    """``(H, W, 3)``: a random part of the photo, mirrored or not, at a random scale and brightness."""
    scale = rng.uniform(0.6, 1.6)
    width, height = min(photo.width, size[0] * scale), min(photo.height, size[1] * scale)
    x, y = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    part = photo.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
    pixels = np.asarray(part, np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    mean = float(pixels.mean())
    faded: NDArray[np.float32] = (pixels - mean) * rng.uniform(0.3, 0.7) + mean * rng.uniform(0.7, 1.2)
    return faded


def _ink_mask(rng: np.random.Generator, scan: NDArray[np.float32], height: int) -> NDArray[np.float32]:
    """``(height or a pixel less, w)`` in [0, 1]: the scan as a smooth, slightly rotated stroke, cropped tightly."""
    big = Image.fromarray(np.pad(scan, 2)).resize((_MASTER, _MASTER), Image.Resampling.BICUBIC)
    big = big.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    # The 8 x 8 grid blurs the scans: a steep curve around half ink restores the edge of a pen stroke.
    stroke = np.clip((np.asarray(big) - 0.32) / 0.2, 0, 1)
    rows, columns = np.flatnonzero(stroke.max(1) > 0.5), np.flatnonzero(stroke.max(0) > 0.5)
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    width = max(3, round(height * (box[2] - box[0]) / (box[3] - box[1]) * rng.uniform(0.85, 1.15)))
    small = Image.fromarray(stroke.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.array(small, np.float32)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0, width) * max(0, height) / smaller


def _paint(rng: np.random.Generator, place: NDArray[np.float32], mask: NDArray[np.float32]) -> None:
    """Draw tinted ink on a light background, chalk on a dark one; in place."""
    luma = float(place.mean())
    contrast = rng.uniform(100, 160)
    value = luma - contrast if luma > 120 else luma + contrast
    colour = np.clip(value + rng.normal(0, 15, 3), 0, 255).astype(np.float32)
    alpha = mask[..., None] * np.float32(rng.uniform(0.85, 1.0))
    place += alpha * (colour - place)
