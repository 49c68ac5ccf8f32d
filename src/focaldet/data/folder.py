"""A folder of labelled photos -> records, whatever its layout."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from focaldet.checks import InputError
from focaldet.data.coco import find_coco, read_coco
from focaldet.data.records import Annotation, DataFolder, Fault, ImageRecord, ParsedLayout
from focaldet.data.validate import validate
from focaldet.data.voc import find_voc, read_voc
from focaldet.data.yolo import find_yolo, read_yolo
from focaldet.photos.images import no_size_warnings

VAL_FRACTION = 0.15
TEST_FRACTION = 0.15

_LOOKED_FOR = (
    "annotations/*.json or */_annotations.coco.json (COCO), Annotations/*.xml or XML files beside images (Pascal VOC), "
    "data.yaml, or images/ and labels/ with classes.txt (YOLO)"
)


def read_folder(root: str | Path, *, seed: int = 0) -> DataFolder:
    """Recognise the layout of a folder, read it, and compare every annotation with its image's header.

    Args:
        seed: of the splits that are made where the layout gives none.

    Raises:
        InputError: not a folder, empty, no known layout, or nothing in it is usable.
    """
    root = Path(root)
    try:
        return _read_folder(root, seed)
    except OSError as error:  # no permission, a broken disk
        raise InputError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from None


def read_labels(path: str | Path) -> DataFolder:
    """A labelled folder as ``read_folder`` reads it, or a single COCO file, whose photos are one split.

    The photos of a COCO file are looked for beside it and in the folders that go with its name.

    Raises:
        InputError: as ``read_folder``.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise InputError(f"{file}: no such folder or COCO file")
        if not file.is_file():
            return read_folder(file)
        if file.suffix.lower() != ".json":
            raise InputError(f"{file}: expected a folder of labelled photos, or a COCO file, whose name ends in .json")
        root = file.parent.parent if file.parent.name == "annotations" else file.parent
        parsed = read_coco(root, [file])
        faults = list(parsed.faults)
        records = {split: _validate_all(annotations, faults) for split, annotations in parsed.splits.items()}
    except OSError as error:
        raise InputError(f"{error.filename or file}: cannot be read ({error.strerror or error})") from None
    _check_usable(file, parsed, records, faults)
    return DataFolder(
        file,
        "coco",
        parsed.class_names,
        records,
        "one file, one split",
        parsed.description,
        tuple(faults),
        category_ids=parsed.category_ids,
    )


def _read_folder(root: Path, seed: int) -> DataFolder:
    if not root.exists():
        raise InputError(f"{root}: no such folder")
    if not root.is_dir():
        raise InputError(f"{root}: not a folder; give the folder that holds the photos and their labels")
    if not any(root.iterdir()):
        raise InputError(f"{root}: the folder is empty; looked for {_LOOKED_FOR}")
    layout, parsed = _parse(root)
    faults = list(parsed.faults)
    records: dict[str, tuple[ImageRecord, ...]] = {}
    for split, annotations in parsed.splits.items():
        records[split] = _validate_all(annotations, faults)
    _check_usable(root, parsed, records, faults)
    splits, origin, made = _make_splits(records, seed)
    return DataFolder(
        root,
        layout,
        parsed.class_names,
        splits,
        origin,
        parsed.description,
        tuple(faults),
        made_splits=made,
        category_ids=parsed.category_ids,
    )


def _parse(root: Path) -> tuple[str, ParsedLayout]:
    if coco := find_coco(root):
        return "coco", read_coco(root, coco)
    if yolo := find_yolo(root):
        return "yolo", read_yolo(root, yolo)
    if voc := find_voc(root):
        return "voc", read_voc(root, voc)
    raise InputError(f"{root}: no layout recognised; looked for {_LOOKED_FOR}")


def _validate_all(annotations: Sequence[Annotation], faults: list[Fault]) -> tuple[ImageRecord, ...]:
    # Threads overlap the waiting for files, not the work; the order of the results is that of the input.
    with no_size_warnings(), ThreadPoolExecutor(max_workers=8) as pool:
        results = list(pool.map(validate, annotations))
    for _, found in results:
        faults += found
    return tuple(record for record, _ in results if record is not None)


def _check_usable(
    root: Path, parsed: ParsedLayout, records: dict[str, tuple[ImageRecord, ...]], faults: list[Fault]
) -> None:
    first = f"; the first fault: {faults[0]}" if faults else ""
    if not any(records.values()):
        raise InputError(f"{root}: {parsed.description}, but no usable image{first}")
    if not any(record.num_objects for split in records.values() for record in split):
        raise InputError(f"{root}: {parsed.description}, but no usable box in any image{first}")


def _make_splits(
    records: dict[str, tuple[ImageRecord, ...]], seed: int
) -> tuple[dict[str, tuple[ImageRecord, ...]], str, tuple[str, ...]]:
    """The splits, a sentence about where they come from, and which of them are made."""
    given = {split: records[split] for split in ("train", "val", "test") if records.get(split)}
    if "train" in given and "val" in given:
        unused = len(records.get("", ()))
        origin = "splits as the folder gives them" + (f"; {unused} images in none are not used" if unused else "")
        return given, origin, ()
    if "train" in given:
        val, train = _draw(given["train"], VAL_FRACTION, seed)
        rest = {"test": given["test"]} if "test" in given else {}
        origin = f"val made from train (seed {seed}, {VAL_FRACTION:.0%}) because the folder gives none"
        return {"train": train, "val": val, **rest}, origin, ("train", "val")
    if "test" in given:
        pool = _pool(found for split, found in records.items() if split != "test")
        if pool:
            val, train = _draw(pool, VAL_FRACTION, seed)
            origin = f"train and val made (seed {seed}, {VAL_FRACTION:.0%} for val) because the folder gives only test"
            return {"train": train, "val": val, "test": given["test"]}, origin, ("train", "val")
    pool = _pool(records.values())
    test, rest_of_pool = _draw(pool, TEST_FRACTION, seed)
    val, train = _draw(rest_of_pool, VAL_FRACTION / (1 - TEST_FRACTION), seed + 1)
    origin = f"splits made with seed {seed}: 70 % train, 15 % val, 15 % test, because the folder gives none"
    return {"train": train, "val": val, "test": test}, origin, ("train", "val", "test")


def _pool(splits: Iterable[tuple[ImageRecord, ...]]) -> tuple[ImageRecord, ...]:
    """All records in one; two annotation files may use the same image ids, which are then numbered anew."""
    records = tuple(record for split in splits for record in split)
    if len({record.image_id for record in records}) == len(records):
        return records
    return tuple(replace(record, image_id=i) for i, record in enumerate(records))


def _draw(
    records: tuple[ImageRecord, ...], fraction: float, seed: int
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """(a random part, the rest); both hold at least one image, and of a single image both are that one."""
    if len(records) == 1:
        return records, records
    count = min(len(records) - 1, max(1, round(len(records) * fraction)))
    chosen = set(np.random.default_rng(seed).permutation(len(records))[:count].tolist())
    return (
        tuple(r for i, r in enumerate(records) if i in chosen),
        tuple(r for i, r in enumerate(records) if i not in chosen),
    )
