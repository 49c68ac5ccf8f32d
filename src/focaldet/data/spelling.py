"""Spellings of paths in label files."""

import os
import re
import unicodedata


def spelled(path: str) -> str:
    """A path with forward slashes and without a leading ``./``; for a web address, its path."""
    path = path.strip().replace("\\", "/")
    if address := re.match(r"([a-z][a-z0-9+.-]+)://[^/]*", path, re.IGNORECASE):
        path = path[address.end() :]
        if address[1].lower().startswith("http"):
            path = re.sub(r"[?#].*", "", path)
        if re.match(r"/[A-Za-z]:/", path):
            path = path[1:]
    return re.sub(r"^(?:\./+)+", "", path)


def is_absolute(path: str) -> bool:
    """Whether a path with forward slashes begins at a root or a drive.

    >>> is_absolute("/a.jpg"), is_absolute("C:/a.jpg"), is_absolute("a.jpg")
    (True, True, False)
    """
    return path.startswith("/") or path[1:2] == ":"


def inside(path: str) -> str | None:
    """A relative path without ``.`` and ``..``, or ``None`` if it leads out of its folder."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def folded(name: str) -> str:
    """A key that is equal for names that differ only in case or in the composition of accents."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def stem(name: str) -> str:
    """The bare name of a file without its last suffix.

    >>> stem("a/b.c.jpg")
    'b.c'
    """
    return os.path.splitext(name.rpartition("/")[2])[0]


def folder_of(name: str) -> str:
    """The folder of a file of the tree; ``""`` is its root.

    >>> folder_of("a/b/c.jpg"), folder_of("c.jpg")
    ('a/b', '')
    """
    return name.rpartition("/")[0]


def bare_name(name: str) -> str:
    """The last part of a path."""
    return name.rpartition("/")[2]


def as_uploaded(bare: str) -> str:
    """A key that is equal for a photo's bare name before and after an upload to Label Studio, which changes it.

    >>> as_uploaded("my photo (1).jpg"), as_uploaded("my_photo_1.jpg")
    ('my_photo_1.jpg', 'my_photo_1.jpg')
    """
    return re.sub(r"[^-\w.]", "", folded(bare).replace(" ", "_"))


def before_upload(bare: str) -> str:
    """The ``as_uploaded`` key of the original photo, from its name after the upload; empty for other names.

    >>> before_upload("1f0c9a3e-my_photo_1.jpg"), before_upload("my-photo.jpg"), before_upload("20260131-1.jpg")
    ('my_photo_1.jpg', '', '')
    """
    # Eight digits may be a date, followed by a number that repeats every day.
    name = re.fullmatch(r"(?!(?:19|20)\d{6}-|\d{4}(?:19|20)\d\d-)[0-9a-f]{8}-(.+)", bare)
    return as_uploaded(name[1]) if name else ""
