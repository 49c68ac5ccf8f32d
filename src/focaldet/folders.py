"""Output folders: check whether a command may write into one, and lock it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from focaldet.checks import InputError, first_names
from focaldet.files import lock, reason_of

KINDS: dict[str, tuple[str, ...]] = {
    "a study": ("study.json", "neuron.json"),
    "a run": ("model.json", "metrics.jsonl", "splits.json"),
    "a demo": ("digits",),
    "a search": ("tune.db",),
    "folds": ("folds.json",),
    "predictions": ("predictions.json", "errors.html"),
}
"""Kind of output folder -> files that identify it. The first match counts, since runs hold predictions too."""


def check_out(folder: Path, kind: str) -> None:
    """Raise InputError unless a command may write into a folder: a missing or empty one, or one of the same kind.

    Args:
        folder: value of ``--out``.
        kind: a key of ``KINDS``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_out(Path(folder), "a run")  # empty
    ...     (Path(folder) / "model.json").touch()
    ...     check_out(Path(folder), "a run")
    ...     check_out(Path(folder), "a study")
    Traceback (most recent call last):
    ...
    focaldet.checks.InputError: --out ...: holds a run; choose another folder
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise InputError(f"--out {folder}: is a file; name a folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"--out {folder}: cannot be read ({reason_of(error)})") from error
    found = next((kind for kind, marks in KINDS.items() if not set(marks).isdisjoint(names)), None)
    if found == kind or not names:
        return
    if found is not None:
        raise InputError(f"--out {folder}: holds {found}; choose another folder")
    raise InputError(f"--out {folder}: holds other files ({first_names(names, 2)}); choose a new or an empty folder")


def make_numbered(stem: Path) -> Path:
    """Create the first of ``stem-1``, ``stem-2``, … that does not exist; runs started together get one each.

    Raises:
        InputError: the folder cannot be created.
    """
    number = 1
    while True:
        folder = stem.with_name(f"{stem.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise InputError(f"{folder}: cannot be created ({reason_of(error)})") from error


@contextmanager
def alone_in(folder: Path, command: str) -> Iterator[None]:
    """Create a folder and lock it for the life of this process; a second command is rejected.

    Args:
        command: name of the command for the message; the same for all commands with this kind of folder.

    Raises:
        InputError: another process holds the folder, it is a file, or it cannot be created.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, alone_in(Path(folder), "train"):
    ...     with alone_in(Path(folder), "train"):
    ...         pass
    Traceback (most recent call last):
    ...
    focaldet.checks.InputError: --out ...: another focaldet train is running in this folder; wait for it or stop it
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; name a folder")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Windows cannot open folders, so a file inside is locked instead.
        handle = os.open(folder / HOLD, os.O_RDWR | os.O_CREAT) if os.name == "nt" else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be created ({error.strerror})") from error
    _held.add(handle)
    try:
        if (_lock_windows(handle) if os.name == "nt" else lock(handle)) is False:
            raise InputError(
                f"--out {folder}: another focaldet {command} is running in this folder; wait for it or stop it"
            )
        yield
    finally:
        _held.discard(handle)
        os.close(handle)
        with suppress(OSError):
            (folder / HOLD).unlink(missing_ok=True)
            for place in made:
                place.rmdir()  # if it is still empty


HOLD = ".focaldet"
"""File with which a process locks a folder on Windows."""

_held: set[int] = set()
"""Handles of the folders that this process holds."""


def _let_go() -> None:
    """Release the locks in a forked process: a worker that outlives its killed parent would keep the folder."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock_windows(handle: int) -> bool | None:
    """``lock`` on Windows, for a file without content: there, a lock also prevents reading and writing by others."""
    import msvcrt

    locking: Any = vars(msvcrt)  # the module has these names only on Windows
    try:
        locking["locking"](handle, locking["LK_NBLCK"], 1)
    except OSError:
        return False
    return True
