"""Files written beside and renamed, so that a kill or a full disk leaves the old file or the new one."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from focaldet.checks import InputError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; it takes the file's place when the block ends without an error.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as beside:
    ...         _ = beside.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Of the name its beginning: with more, the longest that a file system takes would be too long.
        handle, name = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(file, error) from error
    beside = Path(name)
    try:
        yield beside
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, file)
    except OSError as error:
        raise cannot_write(file, error) from error
    finally:
        beside.unlink(missing_ok=True)


def make_numbered(stem: Path) -> Path:
    """Make the first of ``stem-1``, ``stem-2``, … that is not there yet; runs started together get one each.

    Raises:
        InputError: no folder can be made there.
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
            raise InputError(f"{folder}: cannot be made ({error.strerror})") from error


@contextmanager
def alone_in(folder: Path, command: str) -> Iterator[None]:
    """Holds a folder, which is made, as long as this process lives; a second command that wants it is refused.

    Args:
        command: of focaldet, for the message; the same in all that share the kind of folder.

    Raises:
        InputError: another process holds it, it is a file, or it cannot be made.

    >>> with tempfile.TemporaryDirectory() as folder, alone_in(Path(folder), "train"):
    ...     with alone_in(Path(folder), "train"):
    ...         pass
    Traceback (most recent call last):
    ...
    focaldet.checks.InputError: --out ...: another focaldet train is running in this folder; wait for it or stop it
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made ({error.strerror})") from error
    _held.add(handle)
    try:
        _lock(handle, folder, command)
        yield
    finally:
        _held.discard(handle)
        os.close(handle)
        with suppress(OSError):
            folder.rmdir()  # if nothing came of it


_held: set[int] = set()
"""Handles of the folders that this process holds."""


def _let_go() -> None:
    """A forked process holds nothing: a loader's worker that outlives its killed parent would keep the folder."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock(handle: int, folder: Path, command: str) -> None:
    try:
        import fcntl
    except ImportError:  # a system without such a lock
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"--out {folder}: another focaldet {command} is running in this folder; wait for it or stop it"
        ) from error
    except OSError:  # a file system without such a lock
        return


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all; what is no Unicode (a strange file name) becomes a question mark."""
    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace")


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(file, json.dumps(value, indent=1) + "\n")


def read_json(file: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        InputError: it is missing or broken.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; is {file.parent} a run folder of focaldet?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: broken JSON ({error})") from error


def cannot_write(file: Path, error: OSError) -> InputError:
    """The one line for a file that cannot be written."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{file}: the disk is full; nothing was changed, free some space and run the command again")
    return InputError(f"{file}: cannot be written ({error.strerror or error})")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
