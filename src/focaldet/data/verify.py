"""All photos of a folder decoded once, so that no epoch meets one that cannot be read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from focaldet.checks import InputError
from focaldet.data.parallel import each
from focaldet.data.records import DataFolder
from focaldet.photos.images import GLANCE, no_size_warnings, read_photo
from focaldet.system.progress import progress_bar


def without_unreadable(folder: DataFolder, say: Callable[[str], None]) -> DataFolder:
    """The folder without the photos that cannot be decoded, of all its splits.

    Args:
        say: prints a line before they are decoded, and one for each that is left out.
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
    """What is wrong with a photo once it is decoded; empty for a sound one."""
    try:
        read_photo(path, max_side=GLANCE)
    except InputError as error:
        return str(error)
    return ""
