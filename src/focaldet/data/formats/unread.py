"""Label formats that are recognised but not supported: their names, and which export to use instead."""

import csv
import io

from focaldet.checks import first_names
from focaldet.data.formats.csv_table import looks_like_photo, table_text
from focaldet.data.spelling import bare_name
from focaldet.data.tree import Tree

_EXPORT = "export as COCO, YOLO or Pascal VOC"

_KINDS: tuple[tuple[tuple[str, ...], tuple[bytes, ...], str], ...] = (
    ((".json",), (b'"shape_attributes"',), "VGG Image Annotator's JSON; export as CSV or COCO"),
    ((".json",), (b'"classTitle"',), f"Supervisely's JSON; {_EXPORT}"),
    ((".json", ".csv", ".tsv"), (b"rectanglelabels",), f"Label Studio's own format; {_EXPORT}"),
    ((".json",), (b'"label_id"', b'"items"'), f"Datumaro's JSON; {_EXPORT}"),
    ((".json",), (b'"coordinates"', b'"annotations"'), f"CreateML's JSON; {_EXPORT}"),
    ((".json",), (b'"bounding_poly"',), f"a cloud service's JSON; {_EXPORT}"),
    ((".tfrecord", ".tfrecords", ".record"), (), f"TensorFlow's records; {_EXPORT}"),
    ((".parquet", ".arrow"), (), f"a table in binary; {_EXPORT}, or a CSV with one line per box"),
    ((".mat",), (), f"MATLAB's file; {_EXPORT}, or a CSV with one line per box"),
)
"""Suffixes, words in the first bytes, and the kind of file."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")

_HEAD = 1 << 16
_MAX_FILES = 20
"""Number of files to examine per kind."""

_KITTI, _DOTA = (15, 16), (9, 10)
"""Words per line: a class and 14 numbers, perhaps a score; eight coordinates, a class and perhaps a difficulty."""


def unread_labels(tree: Tree) -> str:
    """Name the labels in a format that is not supported, and what to do; empty if there are none."""
    for suffixes, words, what in _KINDS:
        for name in tree.with_suffix(*suffixes)[:_MAX_FILES]:
            if _holds(tree, name, words):
                return f"{name} is {what}"
    for name in tree.with_suffix(".txt")[:_MAX_FILES]:
        if kind := _kind_of_lines(_head(tree, name)):
            return f"{name} has labels of {kind}; {_EXPORT}"
    return ""


def is_unread_json(tree: Tree, name: str) -> bool:
    """Whether a JSON file has labels in a format that is not supported."""
    return any(".json" in suffixes and _holds(tree, name, words) for suffixes, words, _ in _KINDS)


def _holds(tree: Tree, name: str, words: tuple[bytes, ...]) -> bool:
    """Whether a file begins with all these words, in any order."""
    head = _head(tree, name) if words else b""
    return all(word in head for word in words)


def without_labels(tree: Tree) -> str:
    """Name the contents of a folder without labels, and what to do; empty if unknown."""
    for name in tree.with_suffix(".csv", ".tsv")[:_MAX_FILES]:
        if columns := _columns(_head(tree, name)):
            return (
                f"{name} lists photos, but its columns ({first_names(columns)}) contain no box that can be read: call "
                "them file, class, xmin, ymin, xmax, ymax, with one line per box"
            )
    return packed(tree)


def packed(tree: Tree) -> str:
    """Advice about archives; empty if there are none."""
    archives = tree.with_suffix(*_ARCHIVES)
    return f"unpack {first_names(archives)}" if archives else ""


def is_packed(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return bare_name(name).lower().endswith(_ARCHIVES)


def _head(tree: Tree, name: str) -> bytes:
    return tree.head(name, _HEAD)


def _kind_of_lines(head: bytes) -> str:
    lines = [line.split() for line in head.decode("latin-1").splitlines()[:10]]
    lines = [words for words in lines if len(words) > 1]  # DOTA's files begin with the source of the image
    if not lines:
        return ""
    if all(len(words) in _KITTI and _all_numbers(words[1:]) and not _all_numbers(words[:1]) for words in lines):
        return "KITTI"
    if all(len(words) in _DOTA and _all_numbers(words[:8]) and not _all_numbers(words[8:9]) for words in lines):
        return "DOTA"
    return ""


def _all_numbers(words: list[str]) -> bool:
    try:
        return [float(word) for word in words] != []
    except ValueError:
        return False


def _columns(head: bytes) -> list[str]:
    """The header of a table that lists photos."""
    text = table_text(head, cut=len(head) == _HEAD)
    lines = text.splitlines()[:_MAX_FILES]
    delimiter = max(",;\t|", key=lines[0].count) if lines else ","
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter))
    except csv.Error:
        return []
    return rows[0] if any(looks_like_photo(cell) for row in rows for cell in row) else []
