"""Convert a folder of labelled photos to a clean folder in COCO, YOLO, Pascal VOC or LabelMe layout."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import yaml

from focaldet.checks import InputError
from focaldet.data.records import DataFolder, ImageRecord
from focaldet.data.truth import coco_truth
from focaldet.system.progress import Progress

LABELME = "5.5.0"
"""LabelMe version of the files."""

Layout = Literal["coco", "yolo", "voc", "labelme"]


def convert_folder(
    folder: DataFolder, out: Path, layout: Layout, *, copy: bool = False, progress: Progress | None = None
) -> list[str]:
    """Write the photos, boxes, classes and splits of a folder, without the faulty ones.

    Args:
        folder: result of ``read_folder``.
        out: folder to create; it appears once it is complete.
        layout: the layout to write.
        copy: copy the photos. By default they are hard links, which take no space, if the file system supports them.
        progress: called now and then while photos are linked or copied.

    Returns:
        Sentences about everything that was left out because the layout cannot express it.

    Raises:
        InputError: ``out`` exists and is not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already exists; give a new folder")
    photos_in, write = _LAYOUTS[layout]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be created ({error.strerror or error})") from error
    try:
        total, done = sum(map(len, folder.splits.values())), 0
        names: dict[str, list[str]] = {}
        taken: set[str] = set()
        for split, records in folder.splits.items():
            names[split] = []
            for record in records:
                photo = photos_in(split) / _free_name(record, photos_in(split), taken)
                _place(record.path, beside / photo, copy)
                names[split].append(photo.as_posix())
                done += 1
                if progress is not None:
                    progress(done, total)
        write(beside, folder, names)
        os.chmod(beside, 0o755)
        with contextlib.suppress(FileNotFoundError):
            out.rmdir()
        beside.rename(out)
    except UnicodeEncodeError as error:  # a name with half a surrogate pair, which JSON and file systems allow
        name = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        raise InputError(f"{folder.root}: a class or a photo has a name that is not text: {name}; rename it") from error
    except OSError as error:
        raise InputError(f"{error.filename or out}: cannot be read or written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    regions = sum(int(record.ignored.sum()) for records in folder.splits.values() for record in records)
    if regions and layout != "coco":
        return [f"{regions:,} ignored regions are left out: {layout.upper()} labels have none"]
    return []


def _free_name(record: ImageRecord, folder: PurePosixPath, taken: set[str]) -> str:
    """A unique bare name for a photo and its label file, ignoring case: equal names are prefixed with their folders."""
    parts = PurePosixPath(record.file_name).parts
    for depth in range(1, len(parts) + 1):
        name = "-".join(part for part in parts[-depth:] if part not in ("/", "..", "."))
        key = (folder / name).with_suffix("").as_posix().casefold()
        if key not in taken:
            break
    else:
        number = 2
        while (key := (folder / f"{Path(name).stem}-{number}").as_posix().casefold()) in taken:
            number += 1
        name = f"{Path(name).stem}-{number}{Path(name).suffix}"
    taken.add(key)
    return name


def _place(photo: Path, to: Path, copy: bool) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        with contextlib.suppress(OSError):  # another file system, or one without hard links
            os.link(photo.resolve(), to)
            return
    shutil.copyfile(photo, to)


Names = dict[str, list[str]]
"""Split -> paths of its photos in the new folder, in the order of its records."""


def _write_coco(out: Path, folder: DataFolder, names: Names) -> None:
    (out / "annotations").mkdir()
    for split, records in folder.splits.items():
        truth = coco_truth(records, folder.class_names)
        for image, name in zip(truth["images"], names[split], strict=True):
            image["file_name"] = PurePosixPath(name).relative_to("images", split).as_posix()
        (out / "annotations" / f"{split}.json").write_text(json.dumps(truth), encoding="utf-8")


def _write_yolo(out: Path, folder: DataFolder, names: Names) -> None:
    for split, records in folder.splits.items():
        (out / "labels" / split).mkdir(parents=True)
        for record, name in zip(records, names[split], strict=True):
            size = (record.width, record.height)
            lines = []
            for label, box in _objects(record):
                centre = [(box[i] + box[i + 2]) / 2 / size[i] for i in (0, 1)]
                sides = [(box[i + 2] - box[i]) / size[i] for i in (0, 1)]
                lines.append(f"{label} " + " ".join(f"{value:.8f}" for value in centre + sides) + "\n")
            (out / "labels" / split / f"{PurePosixPath(name).stem}.txt").write_text("".join(lines), encoding="utf-8")
    description = {split: f"images/{split}" for split in folder.splits} | {"names": list(folder.class_names)}
    text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True)
    (out / "data.yaml").write_text(text, encoding="utf-8")
    # Label Studio reads the classes from this file.
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in folder.class_names), encoding="utf-8")


def _write_voc(out: Path, folder: DataFolder, names: Names) -> None:
    for part in ("Annotations", "ImageSets/Main"):
        (out / part).mkdir(parents=True)
    (out / "labels.txt").write_text("".join(f"{name}\n" for name in folder.class_names), encoding="utf-8")
    for split, records in folder.splits.items():
        stems = [PurePosixPath(name).stem for name in names[split]]
        (out / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{s}\n" for s in stems), encoding="utf-8")
        for record, name, stem in zip(records, names[split], stems, strict=True):
            root = Element("annotation")
            SubElement(root, "filename").text = PurePosixPath(name).name
            size = SubElement(root, "size")
            for key, number in (("width", record.width), ("height", record.height), ("depth", 3)):
                SubElement(size, key).text = str(number)
            for label, (x1, y1, x2, y2) in _objects(record):
                entry = SubElement(root, "object")
                SubElement(entry, "name").text = folder.class_names[label]
                corners = SubElement(entry, "bndbox")
                for key, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
                    SubElement(corners, key).text = f"{value:.3f}".rstrip("0").rstrip(".")
            indent(root)
            ElementTree(root).write(out / "Annotations" / f"{stem}.xml", encoding="unicode")


def _write_labelme(out: Path, folder: DataFolder, names: Names) -> None:
    (out / "labels.txt").write_text("".join(f"{name}\n" for name in folder.class_names), encoding="utf-8")
    for split, records in folder.splits.items():
        for record, name in zip(records, names[split], strict=True):
            shapes: list[dict[str, Any]] = [
                {
                    "label": folder.class_names[label],
                    "points": [[round(x1, 3), round(y1, 3)], [round(x2, 3), round(y2, 3)]],
                    "group_id": None,
                    "description": "",
                    "shape_type": "rectangle",
                    "flags": {},
                }
                for label, (x1, y1, x2, y2) in _objects(record)
            ]
            document: dict[str, Any] = {
                "version": LABELME,
                "flags": {},
                "shapes": shapes,
                "imagePath": PurePosixPath(name).name,
                "imageData": None,
                "imageHeight": record.height,
                "imageWidth": record.width,
            }
            (out / name).with_suffix(".json").write_text(json.dumps(document, indent=2), encoding="utf-8")


def _objects(record: ImageRecord) -> list[tuple[int, list[float]]]:
    """Label and box of each object."""
    objects = ~record.ignored
    return list(zip(record.labels[objects].tolist(), record.boxes_xyxy[objects].tolist(), strict=True))


def _by_split(split: str) -> PurePosixPath:
    return PurePosixPath("images", split)


def _in_folders(split: str) -> PurePosixPath:
    return PurePosixPath(split)


def _all_together(split: str) -> PurePosixPath:
    return PurePosixPath("JPEGImages")


_Writer = Callable[[Path, DataFolder, Names], None]

_LAYOUTS: dict[str, tuple[Callable[[str], PurePosixPath], _Writer]] = {
    "coco": (_by_split, _write_coco),
    "yolo": (_by_split, _write_yolo),
    "voc": (_all_together, _write_voc),
    "labelme": (_in_folders, _write_labelme),
}
"""Layout -> the folder of a split's photos, and the function that writes the labels."""
