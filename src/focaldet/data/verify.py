"""Decode all photos of a folder once, so that training does not meet unreadable ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from focaldet.checks import InputError
from focaldet.data.parallel import each
from focaldet.data.progress import progress_bar
from focaldet.data.records import DataFolder
from focaldet.photos.images import GLANCE, no_size_warnings, read_photo


def without_unreadable(folder: DataFolder, say: Callable[[str], None]) -> DataFolder:
    """The folder without the photos that cannot be decoded.

    Args:
        say: prints a line before the decoding, and one for each photo that is left out.
    """
    paths = list(dict.fromkeys(record.path for records in folder.splits.values() for record in records))
    say(f"decoding all {len(paths):,} photos first (--verify)")
    with no_size_warnings(), progress_bar("decoding") as progress:
        problems = {
            path: problem for path, problem in zip(paths, each(photo_problem, paths, progress), strict=True) if problem
        }
    for problem in problems.values():
        say(f"{problem}; left out")
    splits = {
        split: tuple(record for record in records if record.path not in problems)
        for split, records in folder.splits.items()
    }
    return replace(folder, splits=splits)


def photo_problem(path: Path) -> str:
    """The error of decoding a photo; empty for a sound one."""
    try:
        read_photo(path, max_side=GLANCE)
    except InputError as error:
        return str(error)
    return ""
