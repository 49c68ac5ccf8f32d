"""CSV: one line per box, with a header that names the columns.

Supported are the tables of TensorFlow's object detection, Roboflow, Open Images (fractions of the image, ``IsGroupOf``
for ignore regions, ``class-descriptions*.csv`` for the names), VGG's annotator, Kaggle (a column ``bbox``), and,
without a header, Keras RetinaNet (``path,x1,y1,x2,y2,class``), SKU-110K (the same, then the image's width and height)
and makesense.ai (``class,x,y,w,h,file,width,height``). A line without numbers is a photo without objects. Boxes are two
corners or a corner and a size, in continuous pixel coordinates, or in fractions of the image if every number of a table
lies between 0 and 1.
"""

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from itertools import product

from focaldet.checks import InputError, first_names
from focaldet.data.formats.rows import Box, Rows, annotated, listed_classes, one_of_each_photo, split_of_pair
from focaldet.data.formats.values import as_flag, as_number, as_size, decoded
from focaldet.data.likeness import split_of
from focaldet.data.records import Annotation, Fault, Form, ParsedLayout
from focaldet.data.spelling import folder_of, stem
from focaldet.data.tree import FoundPhoto, PhotoError, Tree
from focaldet.photos.images import IMAGE_SUFFIXES

_FILE = ("filename", "file", "imagename", "imagepath", "imagefile", "filepath", "path", "imageid", "image", "imgname",
         "imageurl", "url", "imgid", "imgfile", "imgpath", "img", "photo", "frame", "name")  # fmt: skip
_CLASS = ("class", "classname", "label", "labelname", "category", "categoryname", "objectclass", "objectname", "object",
          "name", "type", "target", "classid", "labelid", "categoryid")  # fmt: skip
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xtl", "ytl", "xbr", "ybr"),
    ("left", "top", "right", "bottom"),
    ("minx", "miny", "maxx", "maxy"),
)
_SIZES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("xmin", "ymin", "w", "h"),
    ("xmin", "ymin", "width", "height"),
    ("left", "top", "width", "height"),
)
_CENTRES = (
    ("xcenter", "ycenter", "width", "height"),
    ("xcenter", "ycenter", "w", "h"),
    ("centerx", "centery", "width", "height"),
    ("cx", "cy", "w", "h"),
)
_IMAGE_SIZES = (("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("imgw", "imgh"), ("width", "height"))
_BOX = ("bbox", "box", "boundingbox")
_SPLIT = ("split", "subset", "usage", "set", "dataset")
"""Column names in lower case, only letters and digits, the most reliable first."""

_HEAD = 1 << 16
"""Number of bytes read to recognise the columns; even because of UTF-16."""

_ONE_CLASS = "object"
"""Name of the class if a table has no column for it."""

_NOTHING = frozenset({"", "nan", "na", "n/a", "null", "none", "[]", "{}"})
"""Contents of an empty cell."""

_ROUNDING = 0.01
"""Tolerance for fractions outside the image, which rounded centres and sizes cause; no box in pixels is this small."""

_BEFORE_SIDES = ("bbox", "box", "roi", "rect", "")
"""Prefixes of the names of a box's sides."""

_SIDES: dict[Form, Sequence[Sequence[str]]] = {"corners": _CORNERS, "size": _SIZES, "centre": _CENTRES}


class _Table:
    """A CSV file with its columns.

    Args:
        source: name of the file.
        rows: lines of the file, without the header.
        columns: normalised name of a column -> its index.
        delimiter: separator of the cells.
    """

    def __init__(self, source: str, rows: list[list[str]], columns: dict[str, int], delimiter: str) -> None:
        self.source, self.rows, self.columns = source, rows, columns
        self.decimal_commas = delimiter != ","
        self.file = self._first(_FILE)
        others = [name for name in _CLASS if self.columns.get(name) != self.file]
        self.label = self._first(others)
        self.bbox = self._first(_BOX)
        self.shape = self._first(("regionshapeattributes",))
        self.attributes = self._first(("regionattributes",))
        self.class_attribute = ""
        self.split = self._first(_SPLIT)
        self.group = self._first(("isgroupof", "iscrowd"))
        self.sides: tuple[int, ...] = ()
        size_names: list[str] = []
        self.form: Form = "size" if self.bbox is not None else "corners"
        for before, (form, kinds) in product(_BEFORE_SIDES, _SIDES.items()):
            for names in ([before + name for name in kind] for kind in kinds):
                if not self.sides and all(name in columns for name in names):
                    self.sides, self.form, size_names = tuple(columns[name] for name in names), form, names
        self.size = next(
            (tuple(columns[n] for n in pair) for pair in _IMAGE_SIZES
             if all(n in columns and n not in size_names for n in pair)), ()
        )  # fmt: skip

    def _first(self, names: Sequence[str]) -> int | None:
        return next((self.columns[name] for name in names if name in self.columns), None)

    @property
    def usable(self) -> bool:
        """Whether the table has columns for a file and a box."""
        return self.file is not None and (bool(self.sides) or self.bbox is not None or self.shape is not None)


def _as_corners(values: Sequence[float]) -> Box:
    return values[0], values[1], values[2], values[3]


def _of_size(values: Sequence[float]) -> Box:
    x, y, w, h = values
    return x, y, x + w, y + h


def _of_centre(values: Sequence[float]) -> Box:
    x, y, w, h = values
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


_AS_CORNERS: dict[Form, Callable[[Sequence[float]], Box]] = {
    "corners": _as_corners,
    "size": _of_size,
    "centre": _of_centre,
}


def find_csv(tree: Tree) -> list[str]:
    """The tables that have a file and a box in each line, sorted."""
    return [name for name in tree.with_suffix(".csv", ".tsv") if (table := _table(tree, name, 20)) and table.usable]


def _table(tree: Tree, name: str, most: int | None = None) -> _Table | None:
    """A file as a table, or ``None`` if it is not one.

    Args:
        most: number of lines to read; default: all.
    """
    data = tree.read(name) if most is None else tree.head(name, _HEAD)
    text = table_text(data, cut=len(data) == _HEAD)
    if most is not None:
        text = "".join(text.splitlines(keepends=True)[: most + 1])
    first = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error:
        return None
    if not rows:
        return None
    columns = {_column(cell): i for i, cell in reversed(list(enumerate(rows[0])))}
    table = _Table(name, rows[1:], columns, delimiter)
    return table if table.usable else _without_header(name, rows, delimiter)


def _column(cell: str) -> str:
    """A column's name in lower case, only letters and digits."""
    return re.sub(r"[^a-z0-9]", "", cell.lower())


def table_text(data: bytes, *, cut: bool = False) -> str:
    """The text of a table, in a spreadsheet's code page if necessary.

    Args:
        cut: whether these are only the first bytes of the file.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="ignore")
    try:
        return decoded(data[: data.rfind(b"\n") + 1] if cut else data)  # drop half a character
    except UnicodeError:  # code page of a spreadsheet; every byte is valid in it
        return data.decode("latin-1")


def looks_like_photo(cell: str) -> bool:
    """Whether a cell holds the name of an image file."""
    return "." in cell and f".{cell.strip().lower().rpartition('.')[2]}" in IMAGE_SUFFIXES


def _without_header(name: str, rows: list[list[str]], delimiter: str) -> _Table | None:
    def fits(row: list[str], file: int, numbers: Sequence[int]) -> bool:
        if len(row) <= max(file, *numbers) or not looks_like_photo(row[file]):
            return False
        return all(as_number(row[i]) is not None or not row[i].strip() for i in numbers)

    if all(len(row) == 6 and fits(row, 0, (1, 2, 3, 4)) for row in rows):
        names: tuple[str, ...] = ("filename", "x1", "y1", "x2", "y2", "class")
    elif all(len(row) == 8 and fits(row, 0, (1, 2, 3, 4, 6, 7)) for row in rows):
        names = ("filename", "x1", "y1", "x2", "y2", "class", "imagewidth", "imageheight")
    elif all(len(row) == 8 and fits(row, 5, (1, 2, 3, 4, 6, 7)) for row in rows):
        names = ("class", "x", "y", "w", "h", "filename", "imagewidth", "imageheight")
    else:
        return None
    return _Table(name, rows, {column: i for i, column in enumerate(names)}, delimiter)


def read_csv(tree: Tree, files: list[str]) -> ParsedLayout:
    """All tables of a folder. Classes are the names that occur, sorted, or the lines of ``classes.txt``.

    Raises:
        InputError: a file turns out not to be a table, or a list of classes is unusable.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    rows: list[Rows] = []
    split_of_photo: dict[str, str] = {}
    names = _descriptions(tree, files)
    for name in files:
        table = _table(tree, name)
        if table is None:
            raise InputError(f"{name}: not a table in every line; save it as CSV in UTF-8")
        table.class_attribute = _class_attribute(table)
        found = _read_table(tree, table, names, len(rows), faults)
        for row, split in found:
            rows.append(row)
            split_of_photo[row.photo.name] = split or split_of(stem(name)) or split_of_pair(name, row.photo.name)
        if table.label is None and table.attributes is None:
            notes.append(f"{name}: no column has the class; every box gets the class {_ONE_CLASS!r}")
        if any(row.relative for row, _ in found):
            notes.append(f"{name}: every number lies between 0 and 1: read as fractions of the image")
    rows = one_of_each_photo(rows, faults)
    listed = listed_classes(tree, ("classes.txt", "labels.txt"))
    class_names = listed or tuple(sorted({label for row in rows for label in row.names}))
    splits: dict[str, list[Annotation]] = {}
    for row, annotation in zip(rows, annotated(rows, tree, class_names, faults), strict=True):
        splits.setdefault(split_of_photo[row.photo.name], []).append(annotation)
    unlisted = len(tree.photos) - len(split_of_photo)
    if unlisted > 0:
        notes.append(f"{unlisted:,} photos do not occur in the tables and are not used")
    description = f"CSV with one line per box, recognised by {', '.join(files[:3])}"
    return ParsedLayout(class_names, splits, faults, description, notes=tuple(notes))


def _descriptions(tree: Tree, tables: Sequence[str]) -> dict[str, str]:
    """Class names of Open Images: code -> name."""
    names: dict[str, str] = {}
    for name in tree.with_suffix(".csv"):
        if name not in tables and "class-descriptions" in name.lower():
            lines = csv.reader(io.StringIO(table_text(tree.read(name))))
            with contextlib.suppress(csv.Error):
                names |= {row[0]: row[1] for row in lines if len(row) == 2}
    return names


def _read_table(
    tree: Tree, table: _Table, names: dict[str, str], number: int, faults: list[Fault]
) -> list[tuple[Rows, str]]:
    """The photos of a table in its order, each with the split that its lines state."""
    here = folder_of(table.source)
    folders = [f"{here}/{f}".strip("/") for f in ("", "images", stem(table.source).removesuffix("_labels"))]
    found: dict[str, tuple[Rows, str] | None] = {}
    assert table.file is not None
    for i, cells in enumerate(table.rows):
        line, stated = f"row {i + 1}", cells[table.file].strip() if table.file < len(cells) else ""
        if not stated:
            faults.append(Fault("bad-entry", table.source, line, "no file name"))
            continue
        if stated not in found:
            try:
                photo = tree.photo(stated, beside=table.source, folders=folders)
                found[stated] = _photo_rows(table, cells, stated, photo, number + len(found))
            except PhotoError as error:
                faults.append(Fault("missing-image", table.source, stated, str(error)))
                found[stated] = None
        if (entry := found[stated]) is not None:
            _add(entry[0], table, cells, i + 1, names, faults)
    entries = [entry for entry in found.values() if entry is not None]
    values = [v for rows, _ in entries for box in rows.boxes for v in box]
    if values and max(values) <= 1 + _ROUNDING and min(values) >= -_ROUNDING:
        for rows, _ in entries:
            rows.relative = True
    return entries


def _photo_rows(table: _Table, cells: list[str], stated: str, photo: FoundPhoto, number: int) -> tuple[Rows, str]:
    def cell(place: int) -> str:
        return cells[place] if place < len(cells) else ""

    size = as_size(*(cell(i) for i in table.size)) if table.size else None
    rows = Rows(photo, table.source, f"{stated}: row {{}}", number, stated_size=size, form=table.form)
    return rows, split_of(cell(table.split)) if table.split is not None else ""


def _add(rows: Rows, table: _Table, cells: list[str], number: int, names: dict[str, str], faults: list[Fault]) -> None:
    """Add the box of a line, if it has one."""
    item = f"{rows.item.rpartition('{}')[0]}{number}"
    places = [place for place in (*table.sides, table.bbox, table.shape) if place is not None]
    box_cells = [cells[place].strip() if place < len(cells) else "" for place in places]
    if all(cell.lower() in _NOTHING for cell in box_cells):
        return  # a photo without objects
    box = _box(table, cells)
    label = _label(table, cells, names)
    if box is None:
        faults.append(
            Fault("bad-entry", table.source, item, f"expected four numbers, got {', '.join(box_cells)!r:.60}")
        )
    elif not label:
        faults.append(Fault("unknown-class", table.source, item, "the line names no class"))
    else:
        crowd = table.group is not None and table.group < len(cells) and as_flag(cells[table.group])
        rows.add(box, label, number, ignored=crowd)


def _box(table: _Table, cells: list[str]) -> Box | None:
    if table.sides:
        texts = [cells[place] if place < len(cells) else "" for place in table.sides]
    elif table.bbox is not None:  # Kaggle's "[x, y, width, height]"
        texts = re.split(r"[\s,;]+", cells[table.bbox].strip().strip("[](){}").strip())
    else:
        return _drawn(cells[table.shape or 0])
    # If commas do not separate the cells, they may be decimal commas.
    values = [as_number(text.replace(",", ".") if table.decimal_commas else text) for text in texts]
    if len(values) != 4 or any(value is None for value in values):
        return None
    return _AS_CORNERS[table.form](values)  # type: ignore[arg-type]


def _drawn(text: str) -> Box | None:
    """A shape of VGG's annotator, as JSON in a cell."""
    try:
        shape = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(shape, dict):
        return None
    if isinstance(xs := shape.get("all_points_x"), list) and isinstance(ys := shape.get("all_points_y"), list):
        values = [as_number(v) for v in (*xs, *ys)]
        if not xs or len(xs) != len(ys) or any(v is None for v in values):
            return None
        return min(xs), min(ys), max(xs), max(ys)
    values = [as_number(shape.get(key)) for key in ("x", "y", "width", "height")]
    return None if any(v is None for v in values) else _of_size(values)  # type: ignore[arg-type]


def _label(table: _Table, cells: list[str], names: dict[str, str]) -> str:
    if table.label is not None:
        text = cells[table.label].strip() if table.label < len(cells) else ""
        return names.get(text, text)
    if table.attributes is None:
        return _ONE_CLASS
    return _attributes(table, cells).get(table.class_attribute, "")


def _attributes(table: _Table, cells: list[str]) -> dict[str, str]:
    """The attributes of a region of VGG's annotator and their values; for check boxes, the ticked one."""
    try:
        found = json.loads(cells[table.attributes or 0])
    except (ValueError, RecursionError, IndexError):
        return {}
    values: dict[str, str] = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        ticked = [word for word, is_set in value.items() if is_set is True] if isinstance(value, dict) else [value]
        if len(ticked) == 1 and isinstance(ticked[0], str) and ticked[0].strip():
            values[key] = ticked[0].strip()
    return values


def _class_attribute(table: _Table) -> str:
    """The attribute of a region that contains its class.

    Raises:
        InputError: there are several, and no name says which.
    """
    if table.attributes is None:
        return ""
    keys = list(dict.fromkeys(key for cells in table.rows for key in _attributes(table, cells)))
    called_so = [key for wanted in _CLASS for key in keys if _column(key) == wanted]
    if len(keys) > 1 and not called_so:
        raise InputError(
            f"{table.source}: regions have the attributes {first_names(keys)}; rename the one with the class to 'class'"
        )
    return (called_so or keys or [""])[0]
