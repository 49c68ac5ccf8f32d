"""YOLO: one text file per image with lines ``class x y width height`` in fractions of the image.

Accepted places: a YAML file with ``names`` and ``train``/``val``/``test`` (folders, patterns, or text files that list
images); ``obj.names`` and ``obj.data`` as in Darknet and CVAT; or ``classes.txt`` and label files. The labels of
``.../images/a.jpg`` are ``.../labels/a.txt``, or ``a.txt`` next to it; an image without that file has no objects. A
line with more numbers is a polygon or a rotated box, which becomes its enclosing box, or, with ``kpt_shape``, a box
with its key points. Fractions always refer to the displayed image.
"""

import contextlib
from pathlib import PurePosixPath
from typing import Any

from focaldet.checks import InputError
from focaldet.data.formats.values import as_id, as_number, read_lines
from focaldet.data.formats.yolo_lines import LabelReader, label_text, looks_like_labels
from focaldet.data.likeness import split_of
from focaldet.data.records import Annotation, Fault, ParsedLayout
from focaldet.data.spelling import bare_name, folded, folder_of, stem
from focaldet.data.tree import PhotoError, Tree
from focaldet.files import parse_yaml

_NAME_LISTS = ("obj.names", "classes.txt", "labels.txt", "class_names.txt", "names.txt", "_darknet.labels")
"""Names of files that list the classes, one per line, the most reliable first."""

_PHOTO_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "data", "frames")
_LABEL_FOLDERS = ("labels", "label", "annotations", "annotation", "txt", "yolo_labels", "labels_yolo", "bbox")
"""Pairs of folder names: the labels of ``images/a/b.jpg`` are ``labels/a/b.txt``."""

_NO_LABELS = ("train", "val", "valid", "test", "readme", "license", "notes", "requirements", "data", "trainval")
"""Bare names of text files among label files that are not label files."""


def find_yolo(tree: Tree) -> str | None:
    """The YAML file or the list of classes that describes the folder, or ``None``."""
    described = [name for name in tree.with_suffix(".yaml", ".yml") if _describes(tree, name)]
    if described:
        return _one_description(tree, described)
    texts = tree.with_suffix(".txt")
    named = {folded(stem(photo)) for photo in tree.photos}
    labels = [name for name in texts if folded(stem(name)) in named]
    if not labels and not any("labels" in name.lower().split("/")[:-1] for name in texts):
        return None
    if lists := _class_lists(tree):
        return lists[0]
    # There seem to be YOLO labels, but nothing that names their classes.
    numbers = [name for name in labels[:20] if looks_like_labels(tree, name)]
    if numbers:
        raise InputError(
            f"{tree.root}: YOLO label files such as {numbers[0]}, but no list of classes; write the class names to "
            "classes.txt, one per line"
        )
    return None


def _class_lists(tree: Tree) -> list[str]:
    """The files that list the classes, one per line, the most reliable first."""
    names = tree.with_suffix(".names")
    files = [*tree.with_suffix(".txt"), *names, *tree.with_suffix(".labels")]
    listed = [name for name in files if bare_name(name).lower() in _NAME_LISTS]
    return sorted(listed, key=lambda name: _NAME_LISTS.index(bare_name(name).lower())) or names


def _listed_names(tree: Tree, source: str) -> dict[int, str]:
    """The classes in a text file; a file of the same name in another folder of labels may only have fewer of them.

    Raises:
        InputError: the file is empty or not text, or two files contradict each other.
    """
    listed = read_lines(tree.path(source), source)
    for other in _class_lists(tree):
        if bare_name(other) == bare_name(source):
            theirs = read_lines(tree.path(other), other)
            shared = min(len(listed), len(theirs))
            if listed[:shared] != theirs[:shared]:
                raise InputError(
                    f"{tree.root}: {source} and {other} list different classes; merge them into one list and use its "
                    "numbers in the label files"
                )
            listed = max(listed, theirs, key=len)
    return dict(enumerate(listed))


def _describes(tree: Tree, name: str) -> bool:
    try:
        document = _load_yaml(tree, name)
    except InputError:
        if stem(name) != "data":  # an unrelated YAML file
            return False
        raise
    return isinstance(document, dict) and ("names" in document or {"train", "nc"} <= document.keys())


def _one_description(tree: Tree, files: list[str]) -> str:
    """Choose among several YAML files with names: the one nearest to the top whose photos are in the folder."""
    top = min(name.count("/") for name in files)
    files = [name for name in files if name.count("/") == top]
    if len(files) > 1:
        found = {name: _places(tree, name) for name in files}
        most = max(found.values())
        files = [name for name in files if found[name] == most]
    if len(files) > 1:
        documents = [_load_yaml(tree, name) for name in files]
        labels = _highest_class(tree)
        fitting = [n for n, d in zip(files, documents, strict=True) if len(d.get("names", ())) > labels]
        usual = [n for n in fitting if stem(n).lower() in ("data", "dataset")]
        files = usual or fitting or files
        names = [(folder_of(name), _load_yaml(tree, name).get("names")) for name in files]
        if any(other != names[0] for other in names):
            raise InputError(f"{tree.root}: both {files[0]} and {files[1]} describe it; keep one, or give its folder")
    return files[0]


def _places(tree: Tree, name: str) -> int:
    """Number of splits of a description that are in the folder, and whether it has the usual name."""
    document = _load_yaml(tree, name)
    entries = [entry for key in ("train", "val", "valid", "test") for entry in _listed(document.get(key))]
    return sum(tree.entry(entry, ("", folder_of(name))) is not None for entry in entries if isinstance(entry, str))


def _highest_class(tree: Tree) -> int:
    """The highest class number in label files."""
    highest = -1
    for name in tree.with_suffix(".txt")[:2000]:
        with contextlib.suppress(UnicodeError):
            firsts = [line.split(maxsplit=1)[0] for line in label_text(tree, name).splitlines() if line.strip()]
            numbers = [int(f) for f in firsts if f.isascii() and f.isdigit() and len(f) < 6]
            highest = max(highest, *numbers, -1)
    return highest


def _load_yaml(tree: Tree, name: str) -> Any:
    try:
        return parse_yaml(label_text(tree, name), words=True)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: not readable as YAML ({error})") from None


def read_yolo(tree: Tree, described_by: str) -> ParsedLayout:
    """Read all label files of a YOLO folder.

    Raises:
        InputError: the description is unusable, or the folder lacks a part of it.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    points = 0
    if described_by.lower().endswith((".yaml", ".yml")):
        document = _load_yaml(tree, described_by)
        names = _yaml_names(document, described_by, tree)
        points = _key_point_numbers(document, described_by)
        images = _yaml_splits(document, described_by, tree, faults, notes)
    else:
        names = _listed_names(tree, described_by)
        images = _darknet_splits(tree, faults) or _folder_splits(tree)
    if not names:
        raise InputError(f"{described_by}: no class names")
    class_names = tuple(names.values())
    if len(set(class_names)) < len(class_names):
        twice = next(name for name in class_names if class_names.count(name) > 1)
        raise InputError(f"{described_by}: two classes are called {twice!r}; rename one")
    # A photo may be in two splits, but its label file is read once.
    photos = list(dict.fromkeys(photo for paths in images.values() for photo in paths))
    labels, doubtful = _label_files(tree, photos, faults)
    label_of = {name: label for label, name in enumerate(class_names)}
    reader = LabelReader(tree, names, points, faults)
    annotations: dict[str, Annotation] = {}
    for number, photo in enumerate(photos):
        if photo not in doubtful and (rows := reader.rows(photo, labels.get(photo, ""), number)):
            annotations[photo] = rows.annotation(tree, label_of, faults)
    reader.check_numbers(described_by)
    if bare := sum(photo not in labels and photo not in doubtful for photo in photos):
        notes.append(f"{bare:,} of {len(photos):,} photos have no label file: they are read as photos without objects")
    splits = {split: [annotations[p] for p in paths if p in annotations] for split, paths in images.items()}
    faults += _orphans(tree, labels)
    if unused := len(tree.photos) - len(photos):
        notes.append(f"{unused:,} photos are in no split of {described_by} and are not used")
    splits = {split: found for split, found in splits.items() if found}
    return ParsedLayout(
        class_names,
        splits,
        faults,
        f"YOLO, recognised by {described_by} and its label files",
        notes=tuple(notes),
    )


def _yaml_names(document: dict[str, Any], source: str, tree: Tree) -> dict[int, str]:
    """Class number -> name, from the description or from a text file that it refers to."""
    names = document.get("names")
    if isinstance(names, str) and names and (found := tree.entry(names, (folder_of(source), ""))):
        names = read_lines(tree.path(found[0]), found[0]) if found[0] in tree.files else None
    elif names in (None, ""):
        if not (lists := _class_lists(tree)):
            raise InputError(f"{source}: 'names' is missing; list the classes in it, or in classes.txt, one per line")
        names = list(_listed_names(tree, lists[0]).values())
    if isinstance(names, dict) and all(isinstance(as_id(key), int) for key in names):
        names = {int(key): name for key, name in names.items()}
    elif isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(k, int) and isinstance(n, str) for k, n in names.items()):
        raise InputError(f"{source}: expected 'names' as a list, or as a mapping from numbers to names")
    count = as_number(document.get("nc"))
    if count is not None and count != len(names):
        raise InputError(f"{source}: 'nc' says {count:g} classes, and 'names' has {len(names)}; correct one of them")
    return {number: names[number].strip() for number in sorted(names)}


def _key_point_numbers(document: dict[str, Any], source: str) -> int:
    """Number of key point values after a box, from ``kpt_shape: [points, values per point]``."""
    shape = document.get("kpt_shape")
    if shape is None:
        return 0
    values = [as_number(v) for v in shape] if isinstance(shape, list) else []
    if len(values) != 2 or not all(v is not None and v == int(v) and 1 <= v <= 10_000 for v in values):
        raise InputError(f"{source}: expected 'kpt_shape' as two whole numbers, got {shape!r:.60}")
    return int(values[0] or 0) * int(values[1] or 0)


def _listed(entries: Any) -> list[Any]:
    return entries if isinstance(entries, list) else [entries] if entries else []


def _yaml_splits(
    document: dict[str, Any], source: str, tree: Tree, faults: list[Fault], notes: list[str]
) -> dict[str, list[str]]:
    here = folder_of(source)
    bases = [here, ""]
    if isinstance(stated := document.get("path"), str) and stated.strip():
        # Often the folder's path on the machine where the set was made: used only if it exists here.
        found = tree.entry(stated, (here,))
        bases = [*(name for name in found or () if name in tree.folders), *bases]
    splits: dict[str, list[str]] = {}
    for key in ("train", "val", "test"):
        entries = document.get(key) or (document.get("valid") if key == "val" else None)
        for entry in _listed(entries):
            if not isinstance(entry, str):
                raise InputError(
                    f"{source}: expected {key!r} as a path or a list of paths, got a {type(entry).__name__}"
                )
            places = tree.entry(entry, bases)
            if places is None and key == "test":  # many exports list a split that they do not contain
                notes.append(f"{source}: test: {entry!r:.80} does not exist, so there is no test split")
                continue
            if places is None:
                raise InputError(f"{source}: {entry!r:.160} is not in {tree.root}; correct the path or remove the line")
            for place in places:
                splits.setdefault(key, []).extend(_photos_of(place, bases, tree, faults))
    return splits or _folder_splits(tree)


def _photos_of(place: str, bases: list[str], tree: Tree, faults: list[Fault]) -> list[str]:
    """The photos of a folder, of a text file that lists them, or a photo itself."""
    if place in tree.folders:
        return tree.below(place, tree.photos)
    if place in tree.photos:
        return [place]
    photos = []
    for line in read_lines(tree.path(place), place):
        try:
            photos.append(tree.photo(line, beside=place, folders=[folder_of(place), *bases]).name)
        except PhotoError as error:
            if line.startswith("#"):
                continue
            faults.append(Fault("missing-image", place, line, str(error)))
    return photos


def _darknet_splits(tree: Tree, faults: list[Fault]) -> dict[str, list[str]]:
    """The lists that ``obj.data`` names, or those at the top."""
    lists: dict[str, str] = {}
    for name in tree.with_suffix(".data"):
        for line in read_lines(tree.path(name), name):
            key, _, value = (part.strip() for part in line.partition("="))
            if key in ("train", "valid", "val", "test") and (found := tree.entry(value, (folder_of(name), ""))):
                lists.setdefault(split_of(key), found[0])
    for name in tree.with_suffix(".txt"):
        if split_of(stem(name)) and stem(name).lower() in ("train", "val", "valid", "test"):
            lists.setdefault(split_of(stem(name)), name)
    return {split: photos for split, name in lists.items() if (photos := _photos_of(name, [""], tree, faults))}


def _folder_splits(tree: Tree) -> dict[str, list[str]]:
    """All photos by the splits that their folders suggest; only those in folders called images, if there are any."""
    photos = [p for p in tree.photos if "images" in p.lower().split("/")[:-1]] or tree.photos
    splits: dict[str, list[str]] = {}
    for photo in photos:
        folders = folder_of(photo).split("/")[::-1]
        splits.setdefault(next(filter(None, map(split_of, folders)), ""), []).append(photo)
    return splits


def _label_files(tree: Tree, photos: list[str], faults: list[Fault]) -> tuple[dict[str, str], set[str]]:
    """Photo -> its label file, if it has one; and the photos whose label file is ambiguous.

    A photo's label file is in the folder paired with its own, or next to it. The others are matched by name if that is
    unambiguous.
    """
    doubtful: set[str] = set()
    texts = {folded(name): name for name in tree.with_suffix(".txt")}
    labels: dict[str, str] = {}
    for photo in photos:
        for place in _label_places(photo):
            if (label := texts.get(folded(place))) is not None or place in tree.unusable or place in tree.folders:
                labels[photo] = label or place
                break
    claimed = set(labels.values())
    by_stem: dict[str, list[str]] = {}
    by_photo: dict[str, list[str]] = {}
    for name in texts.values():
        if name not in claimed:
            by_stem.setdefault(folded(stem(name)), []).append(name)
            for photo in tree.uploaded(stem(name)):
                by_photo.setdefault(photo, []).append(name)
    for photo in photos:
        candidates = [] if photo in labels else by_stem.get(folded(stem(photo))) or by_photo.get(photo, [])
        split = _nearest_split(photo)
        candidates = [c for c in candidates if not (split and _nearest_split(c)) or split == _nearest_split(c)]
        if len(candidates) == 1:
            labels[photo] = candidates[0]
        elif candidates:
            problem = f"{candidates[0]} and {candidates[1]} fit equally well; keep one next to it"
            faults.append(Fault("missing-annotation", photo, "", problem))
            doubtful.add(photo)
    photos_of: dict[str, list[str]] = {}
    for photo, label in labels.items():
        photos_of.setdefault(label, []).append(photo)
    for label, sharing in photos_of.items():
        if len(sharing) > 1:
            for photo in sharing:
                others = " and ".join(p for p in sharing if p != photo)
                faults.append(Fault("duplicate-image", photo, "", f"{label} may label it or {others}; keep one photo"))
            doubtful.update(sharing)
    return labels, doubtful


def _nearest_split(name: str) -> str:
    return next(filter(None, map(split_of, folder_of(name).split("/")[::-1])), "")


def _label_places(photo: str) -> list[str]:
    """Possible paths of a photo's labels, the usual one first."""
    folders = folder_of(photo).split("/") if folder_of(photo) else []
    places = []
    for i in range(len(folders) - 1, -1, -1):  # only the last folder named images counts
        if folders[i].lower() in _PHOTO_FOLDERS:
            places += [[*folders[:i], name, *folders[i + 1 :]] for name in _LABEL_FOLDERS]
    places += [folders, *([*folders, name] for name in _LABEL_FOLDERS)]
    names = (stem(photo), bare_name(photo))
    return ["/".join([*place, f"{name}.txt"]) for name in names for place in places]


def _orphans(tree: Tree, labels: dict[str, str]) -> list[Fault]:
    """A fault for each label file without a photo: text files in folders that hold label files."""
    used = set(labels.values())
    folders = {folder_of(name) for name in used if name}
    texts = [n for n in tree.with_suffix(".txt") if folder_of(n) in folders or "labels" in PurePosixPath(n).parts[:-1]]
    named = {stem(photo) for photo in tree.photos}  # in another split, or left out with a fault of its own
    return [
        Fault("missing-image", name, "", "labels without an image of this name")
        for name in texts
        if name not in used
        and bare_name(name).lower() not in _NAME_LISTS
        and stem(name).lower() not in _NO_LABELS
        and stem(name) not in named
    ]
