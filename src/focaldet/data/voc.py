"""The Pascal VOC layout: one XML file an image.

Accepted places: ``JPEGImages``, ``Annotations`` and ``ImageSets/Main/{train,val,trainval,test}.txt`` as VOC has them;
or folders that hold images and XML files side by side, for example one for each split as Roboflow exports them.

VOC counts pixels from 1 and a box contains its last pixel (development kit: xmin, ymin, xmax, ymax are pixel
indices). In continuous coordinates, whose 0 is the left edge of the first pixel, that is
``[xmin - 1, ymin - 1, xmax, ymax]``: the box 1..640 is the whole of an image 640 wide. A box whose xmin is not smaller
than its xmax is a fault all the same: no tool writes a one-pixel object on purpose.
"""

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from focaldet.checks import InputError, near_name
from focaldet.data.paths import images_in, read_lines, relative_name, split_of
from focaldet.data.records import Annotation, Fault, ParsedLayout

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def find_voc(root: Path) -> list[Path]:
    """The annotation files, sorted; hidden ones left out."""
    folder = root / "Annotations"
    return sorted(p for p in (folder if folder.is_dir() else root).rglob("*.xml") if not p.name.startswith("."))


def read_voc(root: Path, files: list[Path]) -> ParsedLayout:
    """All annotation files of a VOC folder.

    Classes are the names that occur, sorted; or the lines of ``labels.txt`` or ``classes.txt`` where one is there.

    Raises:
        InputError: an XML file declares entities or refers to others, or a list of images is unusable.
    """
    faults: list[Fault] = []
    trees = {path: tree for path in files if (tree := _parse(path, root, faults)) is not None}
    class_names = _class_names(root, trees)
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    images = {p.with_suffix(""): p for p in images_in(folder)}
    annotations: dict[Path, Annotation] = {}
    for number, (path, tree) in enumerate(trees.items()):
        image = _image_of(path, tree, root, images)
        if image is None:
            faults.append(Fault("missing-image", relative_name(path, root), "", "there is no image of this name"))
        else:
            annotations[path] = _annotation(path, tree, image, root, number, class_names, faults)
    splits = _listed_splits(root, annotations, faults) or _folder_splits(root, annotations, images, faults)
    description = f"Pascal VOC, recognised by {len(files)} XML files in {files[0].parent.name}"
    return ParsedLayout(class_names, splits, faults, description)


def _parse(path: Path, root: Path, faults: list[Fault]) -> Element | None:
    name = relative_name(path, root)
    try:
        tree: Element = parse(path, forbid_dtd=False).getroot()
    except DefusedXmlException as error:
        # Annotations have no use for entities: this file is an attack or an accident, and nothing of it is expanded.
        kind = type(error).__name__
        raise InputError(
            f"{name}: the XML declares or includes entities ({kind}); remove the file or the DTD"
        ) from None
    except (ParseError, UnicodeError, ValueError) as error:
        faults.append(Fault("unreadable-annotation", name, "", f"not readable as XML ({error})"))
        return None
    if tree.tag != "annotation":
        faults.append(Fault("unreadable-annotation", name, "", f"expected <annotation>, got <{tree.tag}>"))
        return None
    return tree


def _class_names(root: Path, trees: dict[Path, Element]) -> tuple[str, ...]:
    for name in ("labels.txt", "classes.txt"):
        if (root / name).is_file():
            names = tuple(dict.fromkeys(read_lines(root / name, root)))
            if not names:
                raise InputError(f"{name}: no class names; write one a line, or remove the file")
            return names
    found = {_text(obj, "name") for tree in trees.values() for obj in tree.findall("object")}
    return tuple(sorted(found - {""}))


def _image_of(path: Path, tree: Element, root: Path, images: dict[Path, Path]) -> Path | None:
    # The file's own name comes first: <filename> is often left over from before a renaming.
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else path.parent
    sub = path.parent.relative_to(root / "Annotations") if path.is_relative_to(root / "Annotations") else Path()
    stated = Path(_text(tree, "filename").replace("\\", "/")).name
    for stem in (path.stem, Path(stated).stem if Path(stated).suffix else stated):
        if stem and (image := images.get(folder / sub / stem)):
            return image
    return None


def _annotation(
    path: Path,
    tree: Element,
    image: Path,
    root: Path,
    number: int,
    class_names: tuple[str, ...],
    faults: list[Fault],
) -> Annotation:
    source = relative_name(path, root)
    boxes, labels, items = [], [], []
    for i, obj in enumerate(tree.findall("object")):
        name = _text(obj, "name")
        item = f"object {i + 1} ({name or 'without a name'})"
        corners = _corners(obj)
        if corners is None:
            faults.append(Fault("bad-entry", source, item, "expected a <bndbox> with the numbers xmin ymin xmax ymax"))
        elif name not in class_names:
            problem = f"class {name!r} is not in the list of classes ({near_name(name, class_names)})"
            faults.append(Fault("unknown-class", source, item, problem))
        elif corners[2] <= corners[0] or corners[3] <= corners[1]:
            problem = ", ".join(f"{side} {value:g}" for side, value in zip(_SIDES, corners, strict=True))
            faults.append(Fault("zero-area", source, item, problem))
        else:
            boxes.append([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
            labels.append(class_names.index(name))
            items.append(item)
    return Annotation(
        path=image,
        file_name=image.name if image.parent.name == "JPEGImages" else relative_name(image, root),
        image_id=number,
        source=source,
        stated_size=_stated_size(tree),
        boxes_xyxy=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignored=np.zeros(len(boxes), bool),
        items=tuple(items),
    )


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _numbers(element: Element | None, tags: tuple[str, ...]) -> list[float] | None:
    if element is None:
        return None
    try:
        return [float(_text(element, tag)) for tag in tags]
    except ValueError:
        return None


def _corners(obj: Element) -> list[float] | None:
    return _numbers(obj.find("bndbox"), _SIDES)


def _stated_size(tree: Element) -> tuple[int, int] | None:
    size = _numbers(tree.find("size"), ("width", "height"))
    # Some tools write 0 for "not known".
    return (int(size[0]), int(size[1])) if size and all(np.isfinite(size)) and min(size) > 0 else None


def _listed_splits(
    root: Path, annotations: dict[Path, Annotation], faults: list[Fault]
) -> dict[str, list[Annotation]] | None:
    folder = root / "ImageSets" / "Main"
    lists = {name: folder / f"{name}.txt" for name in ("train", "val", "test") if (folder / f"{name}.txt").is_file()}
    if not lists and (folder / "trainval.txt").is_file():
        lists = {"train": folder / "trainval.txt"}
    if not lists:
        return None
    by_name = {_listed_name(path, root): annotation for path, annotation in annotations.items()}
    broken = {fault.file for fault in faults}
    splits: dict[str, list[Annotation]] = {}
    for split, file in lists.items():
        source = relative_name(file, root)
        names = [line.split()[0].replace("\\", "/") for line in read_lines(file, root)]
        for name in dict.fromkeys(names):
            stem = name if name in by_name else str(Path(name).with_suffix(""))
            if stem in by_name:
                splits.setdefault(split, []).append(by_name[stem])
            elif f"Annotations/{stem}.xml" not in broken:
                faults.append(Fault("missing-annotation", source, name, f"there is no Annotations/{stem}.xml"))
        for name in sorted(name for name, times in Counter(names).items() if times > 1):
            faults.append(Fault("duplicate-image", source, name, "listed twice"))
        if split not in splits:
            raise InputError(f"{source}: none of its {len(names)} images is usable; check the names in it")
    return splits


def _listed_name(path: Path, root: Path) -> str:
    folder = root / "Annotations"
    return relative_name(path.with_suffix(""), folder if path.is_relative_to(folder) else root)


def _folder_splits(
    root: Path, annotations: dict[Path, Annotation], images: dict[Path, Path], faults: list[Fault]
) -> dict[str, list[Annotation]]:
    used = {annotation.path for annotation in annotations.values()}
    for image in images.values():
        if image not in used:
            problem = "no XML file of this name; an image without objects needs one without <object>"
            faults.append(Fault("missing-annotation", relative_name(image, root), "", problem))
    splits: dict[str, list[Annotation]] = {}
    for path, annotation in annotations.items():
        splits.setdefault(split_of(path.parent.relative_to(root).as_posix()), []).append(annotation)
    return splits
