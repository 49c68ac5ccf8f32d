"""Read a folder of labelled photos in any layout."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from focaldet.checks import InputError
from focaldet.data.formats.coco import find_coco, read_coco
from focaldet.data.formats.csv_table import find_csv, read_csv
from focaldet.data.formats.cvat import find_cvat, read_cvat
from focaldet.data.formats.labelme import find_labelme, read_labelme
from focaldet.data.formats.unread import is_packed, packed, unread_labels, without_labels
from focaldet.data.formats.voc import find_voc, read_voc
from focaldet.data.formats.yolo import find_yolo, read_yolo
from focaldet.data.records import Annotation, DataFolder, Fault, ImageRecord, ParsedLayout
from focaldet.data.suspicious import like_percent, similar_classes, splits_without_objects
from focaldet.data.tree import Tree
from focaldet.data.validate import validate_all
from focaldet.system.progress import Progress

VAL_FRACTION = 0.15
TEST_FRACTION = 0.15

_FORMATS: dict[str, tuple[Callable[[Tree], Any], Callable[[Tree, Any], ParsedLayout]]] = {
    "coco": (find_coco, read_coco),
    "cvat": (find_cvat, read_cvat),
    "labelme": (find_labelme, read_labelme),
    "yolo": (find_yolo, read_yolo),
    "voc": (find_voc, read_voc),
    "csv": (find_csv, read_csv),
}
"""Layout -> functions that find and read its label files. The first layout with label files is chosen."""

_LOOKED_FOR = (
    "JSON with images and annotations (COCO), XML files (Pascal VOC, CVAT), data.yaml or label files with classes.txt "
    "(YOLO), one JSON file per image (LabelMe), a CSV with one line per box"
)


def read_folder(
    root: str | Path, *, seed: int = 0, rescale: bool = False, progress: Progress | None = None
) -> DataFolder:
    """Recognise the layout of a folder, read it, and compare every annotation with its image's header.

    Args:
        seed: seed of the splits that are made if the layout has none.
        rescale: if the labels state another image size, scale the boxes accordingly; otherwise images whose boxes may
            belong to a scaled copy are left out.
        progress: called now and then while the images' headers are read.

    Raises:
        InputError: not a folder, empty, in no known layout, or without usable content.
    """
    root = Path(root)
    try:
        return _read_folder(root, seed, rescale, progress)
    except OSError as error:  # no permission, a broken disk
        raise InputError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from None


def read_labels(path: str | Path) -> DataFolder:
    """Read a labelled folder with ``read_folder``, or a single COCO file, whose photos form one split.

    The photos of a COCO file are searched next to it and in folders that match its name.

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
        tree = Tree(root)
        parsed = read_coco(tree, [file.relative_to(root).as_posix()])
        records, faults, notes = _records(root, parsed)
    except OSError as error:
        raise InputError(f"{error.filename or file}: cannot be read ({error.strerror or error})") from None
    _check_usable(file, parsed, records, faults, tree)
    return _folder(file, "coco", replace(parsed, notes=notes), records, "one file, one split", faults)


def _read_folder(root: Path, seed: int, rescale: bool, progress: Progress | None) -> DataFolder:
    if not root.exists():
        raise InputError(f"{root}: no such folder")
    if not root.is_dir():
        remedy = "unpack it, and give the folder" if is_packed(root.name) else "give the folder"
        raise InputError(f"{root}: not a folder; {remedy} that holds the photos and their labels")
    tree = Tree(root)
    if not tree.files:
        raise InputError(f"{root}: the folder is empty; looked for {_LOOKED_FOR}")
    layout, parsed = _parse(tree)
    records, faults, notes = _records(root, parsed, rescale=rescale, progress=progress)
    faults += [
        Fault("not-a-file", name, "", "a link that leads nowhere, or a device") for name in sorted(tree.unusable)
    ]
    if any(fault.kind == "missing-image" for fault in faults) and (archives := packed(tree)):
        notes = (*notes, f"photos are missing, and there are archives: {archives}")
    _check_usable(root, parsed, records, faults, tree)
    splits, origin, made = _make_splits(records, seed)
    return _folder(root, layout, replace(parsed, notes=notes), splits, origin, faults, made)


def _folder(
    root: Path,
    layout: str,
    parsed: ParsedLayout,
    splits: dict[str, tuple[ImageRecord, ...]],
    origin: str,
    faults: list[Fault],
    made: tuple[str, ...] = (),
) -> DataFolder:
    folder = DataFolder(
        root=root,
        layout=layout,
        class_names=parsed.class_names,
        splits=splits,
        split_origin=origin,
        description=parsed.description,
        faults=tuple(faults),
        made_splits=made,
        category_ids=parsed.category_ids,
        notes=parsed.notes,
    )
    return replace(
        folder,
        faults=(*folder.faults, *similar_classes(folder)),
        notes=(*folder.notes, *splits_without_objects(folder), *like_percent(folder)),
    )


def _parse(tree: Tree) -> tuple[str, ParsedLayout]:
    for layout, (find, read) in _FORMATS.items():
        if files := find(tree):
            try:
                parsed = read(tree, files)
            except InputError as error:
                if other := unread_labels(tree):
                    raise InputError(f"{error}; {other}") from None
                raise
            return layout, replace(parsed, notes=(*parsed.notes, *_not_read(tree, layout)))
    found = unread_labels(tree) or without_labels(tree)
    raise InputError(f"{tree.root}: no layout recognised; " + (found or f"looked for {_LOOKED_FOR}"))


def _not_read(tree: Tree, layout: str) -> list[str]:
    """A sentence if the folder also has labels in other layouts."""
    others = []
    for name in list(_FORMATS)[list(_FORMATS).index(layout) + 1 :]:
        with contextlib.suppress(InputError):
            if files := _FORMATS[name][0](tree):
                others.append(f"{name.upper()} ({files if isinstance(files, str) else files[0]})")
    return [f"labels in another layout are ignored: {', '.join(others)}"] if others else []


def _records(
    root: Path, parsed: ParsedLayout, *, rescale: bool = False, progress: Progress | None = None
) -> tuple[dict[str, tuple[ImageRecord, ...]], list[Fault], tuple[str, ...]]:
    """The usable photos of each split, every fault, and notes."""
    annotations = _named_apart(root, list(parsed.splits.values()))
    records, found_faults, notes = validate_all(
        [a for split in annotations for a in split], rescale=rescale, progress=progress
    )
    faults = [*parsed.faults, *found_faults]
    splits: dict[str, tuple[ImageRecord, ...]] = {}
    start = 0
    for split, found in zip(parsed.splits, annotations, strict=True):
        splits[split] = tuple(r for r in records[start : start + len(found)] if r is not None)
        start += len(found)
    return splits, faults, (*parsed.notes, *notes)


def _named_apart(root: Path, splits: list[list[Annotation]]) -> list[list[Annotation]]:
    """The records; if label files give two photos the same name, all photos are named by their paths instead."""
    of_name: dict[str, Path] = {}
    for annotation in (a for split in splits for a in split):
        if of_name.setdefault(annotation.file_name, annotation.path) != annotation.path:
            break
    else:
        return splits
    return [[replace(a, file_name=a.path.relative_to(root).as_posix()) for a in split] for split in splits]


def _check_usable(
    root: Path, parsed: ParsedLayout, records: dict[str, tuple[ImageRecord, ...]], faults: list[Fault], tree: Tree
) -> None:
    """Raise InputError unless there are photos with objects."""
    everything = [record for split in records.values() for record in split]
    if any(record.num_objects for record in everything):
        return
    if regions := sum(len(record.labels) for record in everything):
        raise InputError(
            f"{root}: {parsed.description}, but all of its {regions:,} boxes are crowds (iscrowd 1), which are neither "
            "objects nor background; set iscrowd to 0 where they are objects"
        )
    nothing = "no usable box in any image" if everything else "no usable image"
    first = f"; the first fault: {faults[0]}" if faults else ""
    other = f"; {other}" if (other := unread_labels(tree) or packed(tree)) else ""
    raise InputError(f"{root}: {parsed.description}, but {nothing}{first}{other}")


def _make_splits(
    records: dict[str, tuple[ImageRecord, ...]], seed: int
) -> tuple[dict[str, tuple[ImageRecord, ...]], str, tuple[str, ...]]:
    """The splits, a sentence about their origin, and the splits that were made."""
    given = {split: records[split] for split in ("train", "val", "test") if records.get(split)}
    if "train" in given and "val" in given:
        unused = len(records.get("", ()))
        origin = "the folder's own splits" + (f"; {unused} images outside them are not used" if unused else "")
        return given, origin, ()
    if "train" in given:
        val, train = _draw(given["train"], VAL_FRACTION, seed)
        rest = {"test": given["test"]} if "test" in given else {}
        origin = f"val split off from train (seed {seed}, {VAL_FRACTION:.0%}), because the folder has none"
        return {"train": train, "val": val, **rest}, origin, ("train", "val")
    if "test" in given:
        pool = _pool(found for split, found in records.items() if split != "test")
        if pool:
            val, train = _draw(pool, VAL_FRACTION, seed)
            origin = f"random train and val (seed {seed}, {VAL_FRACTION:.0%} for val), because the folder has only test"
            return {"train": train, "val": val, "test": given["test"]}, origin, ("train", "val")
    pool = _pool(records.values())
    test, rest_of_pool = _draw(pool, TEST_FRACTION, seed)
    val, train = _draw(rest_of_pool, VAL_FRACTION / (1 - TEST_FRACTION), seed + 1)
    origin = f"random splits (seed {seed}): 70 % train, 15 % val, 15 % test, because the folder has none"
    return {"train": train, "val": val, "test": test}, origin, ("train", "val", "test")


def _pool(splits: Iterable[tuple[ImageRecord, ...]]) -> tuple[ImageRecord, ...]:
    """All records as one split; if two annotation files use the same image ids, images are renumbered."""
    records = tuple(record for split in splits for record in split)
    if len({record.image_id for record in records}) == len(records):
        return records
    return tuple(replace(record, image_id=i) for i, record in enumerate(records))


def _draw(
    records: tuple[ImageRecord, ...], fraction: float, seed: int
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """Split at random in two parts of at least one image each; a single image is in both."""
    if len(records) == 1:
        return records, records
    count = min(len(records) - 1, max(1, round(len(records) * fraction)))
    chosen = set(np.random.default_rng(seed).permutation(len(records))[:count].tolist())
    return (
        tuple(r for i, r in enumerate(records) if i in chosen),
        tuple(r for i, r in enumerate(records) if i not in chosen),
    )
