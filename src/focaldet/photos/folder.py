"""The photos of a folder and its sub-folders."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from focaldet.checks import printable
from focaldet.photos.images import IMAGE_SUFFIXES, REMEDIES, SUFFIX_FORMATS

NOT_PHOTOS = frozenset({"__MACOSX"})
"""Folders that programs create among photos; hidden folders are skipped too."""

_MAX_KINDS = 8


def photos_below(folder: Path, *, without: Iterable[Path] = ()) -> tuple[list[Path], Counter[str]]:
    """The photos of a folder and its sub-folders, sorted, and the number of other files by suffix.

    Hidden files and folders are skipped. Linked folders are followed, each folder once.

    Args:
        without: folders to skip.

    Raises:
        OSError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    photos: list[Path] = []
    others: Counter[str] = Counter()
    seen = {other.resolve() for other in without}
    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_PHOTOS)
        for file in (Path(place, name) for name in files if not name.startswith(".")):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                photos.append(file)
            else:
                others[file.suffix.lower()] += 1
    return sorted(photos), others


def skipped_line(others: Counter[str]) -> str:
    """A line about files in folders that are not photos; "" if there are none.

    >>> skipped_line(Counter({".txt": 1200, ".mp4": 1, "": 2}))
    'skipped in folders, because they are not photos: 1,200 .txt, 2 without a suffix, 1 .mp4'
    """
    if not others:
        return ""
    kinds = [f"{count:,} {printable(suffix)[:20] or 'without a suffix'}" for suffix, count in others.most_common()]
    more = f", and {len(kinds) - _MAX_KINDS} more kinds" if len(kinds) > _MAX_KINDS else ""
    formats = {format for suffix in others for format in SUFFIX_FORMATS.get(suffix, ())}
    hints = "".join(f"; to read {name}: {remedy}" for name, remedy in REMEDIES.items() if name in formats)
    return f"skipped in folders, because they are not photos: {', '.join(kinds[:_MAX_KINDS])}{more}{hints}"
