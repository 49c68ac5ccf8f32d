"""Decode all photos of a folder once, so that training meets no unreadable ones."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from focaldet.checks import InputError
from focaldet.data.parallel import each
from focaldet.data.records import DataFolder
from focaldet.photos.images import GLANCE, no_size_warnings, read_photo
from focaldet.photos.regions import decode_to_the_end
from focaldet.system.progress import progress_bar


def without_unreadable(folder: DataFolder, say: Callable[[str], None], *, windows: bool = False) -> DataFolder:
    """The folder without the photos that cannot be decoded.

    Args:
        say: prints a line before decoding, and one for each photo that is left out.
        windows: whether parts of the photos will be read, so that large ones can be used.
    """
    paths = list(dict.fromkeys(record.path for records in folder.splits.values() for record in records))
    say(f"decoding all {len(paths):,} photos first (--verify)")
    with no_size_warnings(), progress_bar("decoding") as progress:
        found = each(partial(photo_problem, windows=windows), paths, progress)
        problems = {path: problem for path, problem in zip(paths, found, strict=True) if problem}
    for problem in problems.values():
        say(f"{problem}; left out")
    splits = {
        split: tuple(record for record in records if record.path not in problems)
        for split, records in folder.splits.items()
    }
    return replace(folder, splits=splits)


def photo_problem(path: Path, *, windows: bool = False) -> str:
    """The error of decoding a photo; empty if it can be decoded."""
    try:
        if windows:
            decode_to_the_end(path)
        else:
            read_photo(path, max_side=GLANCE)
    except InputError as error:
        return str(error)
    return ""
