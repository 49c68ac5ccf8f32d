"""File names out of annotation files: they never lead out of the data folder."""

from pathlib import Path, PurePosixPath

from focaldet.checks import InputError
from focaldet.photos.images import IMAGE_SUFFIXES

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Word in a file or folder name -> split."""


def split_of(name: str) -> str:
    """The split that a file or folder name speaks of, or the empty string.

    >>> split_of("instances_val2017"), split_of("valid"), split_of("labels")
    ('val', 'val', '')
    """
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((SPLIT_WORDS[w] for w in words if w in SPLIT_WORDS), "")


def inside(folder: Path, name: str, source: str) -> Path:
    """``folder / name``.

    Args:
        source: the file that holds the name; the error says it.

    Raises:
        InputError: the name is absolute or climbs out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    depth = 0
    for part in parts.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    drive = bool(parts.parts) and parts.parts[0].endswith(":")
    if depth < 0 or parts.is_absolute() or drive or "\0" in name:
        raise InputError(f"{source}: file name {name!r:.120} leaves the data folder; write it relative to the images")
    return folder / parts


def read_lines(path: Path, root: Path) -> list[str]:
    """The lines of a text file, stripped, without the empty ones.

    Raises:
        InputError: it is not UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeError:
        raise InputError(f"{relative_name(path, root)}: not a text file in UTF-8; save it as one") from None
    return [line.strip() for line in lines if line.strip()]


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and its sub-folders, sorted; hidden ones left out."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def relative_name(path: Path, root: Path) -> str:
    """``path`` as annotations write it: relative to ``root``, with forward slashes."""
    return path.relative_to(root).as_posix()
