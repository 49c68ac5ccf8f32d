"""Safe reading and writing of files.

Only regular files of bounded size are read: a FIFO would block forever, and a few hundred bytes of YAML can expand to
more than any memory holds. Files are written under another name and then renamed, so that a kill or a full disk leaves
either the old or the new file. The package reads all JSON, YAML and text here, and writes all its files here.
"""

import errno
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from focaldet.checks import InputError

MAX_TEXT = 2**24
"""Largest size in bytes of a text file: names, settings, a configuration."""

MAX_JSON = 2**30
"""Largest size in bytes of a JSON file: the boxes of all photos of a data set."""

MAX_YAML = 2**19
"""Largest size in bytes of a YAML file, whose parsing takes seconds."""

MAX_NODES = 100_000
"""Largest number of values in a YAML file, counting repeated references."""

MAX_DIGITS = 19
"""Largest number of digits of a whole number in 64 bits."""

_UNFINISHED = ".focaldet-part"
"""Suffix of a file that is being written, or whose process was killed while writing it."""

_PART = 2**20
"""Number of bytes per read of a file that is larger than its stated size."""

_swept: set[Path] = set()


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file for reading; anything else is rejected without waiting.

    Raises:
        InputError: the file is missing, cannot be read, or is a folder, a FIFO or a device.
    """
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise cannot_read(file, error) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise InputError(f"{file}: {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}; expected a file")


def read_bytes(file: Path, most: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        most: largest accepted size in bytes.

    Raises:
        InputError: as ``open_regular``, or the file is larger.
    """
    try:
        with open_regular(file) as opened:
            size = os.fstat(opened.fileno()).st_size
            data = opened.read(size + 1 if most is None else min(size, most) + 1)  # allocates this much memory at once
            while len(data) > size and (
                most is None or len(data) <= most
            ):  # a growing file, or one without a stated size (/proc)
                part = opened.read(_PART)
                if not part:
                    break
                data += part
    except OSError as error:
        raise cannot_read(file, error) from error
    if most is not None and len(data) > most:
        raise InputError(f"{file}: more than {most:,} bytes; it is not a file of this kind")
    return data


def read_text(file: Path, most: int = MAX_TEXT) -> str:
    """The content of a text file, with or without a byte order mark.

    Raises:
        InputError: as ``read_bytes``, or the file is not UTF-8.
    """
    try:
        return read_bytes(file, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start:,}); save it as UTF-8") from error


def read_json(file: Path) -> Any:
    """The content of a JSON file of a run.

    Raises:
        InputError: as ``read_text``, or the file is broken.
    """
    try:
        return parse_json(read_text(file, MAX_JSON))
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError(f"{error}; is {file.parent} a run folder of focaldet?") from error
        raise
    except ValueError as error:
        raise InputError(f"{file}: broken JSON ({error})") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, nested too deeply, or a whole number exceeds 64 bits.

    >>> parse_json("[1, 2.5]")
    [1, 2.5]
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: nested too deeply
    """
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_yaml(file: Path) -> Any:
    """The content of a YAML file with plain values.

    Raises:
        InputError: as ``read_text``, or the file is broken, or its references expand to too many values.
    """
    try:
        return parse_yaml(read_text(file, MAX_YAML))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{file}: not a YAML file that can be read ({error})") from error


def parse_yaml(text: str, *, words: bool = False) -> Any:
    """The value of a YAML text with plain values.

    Args:
        words: keep numbers, dates and the like as words: a class may be called "no", or 010.

    Raises:
        ValueError: the text is broken, or its references expand to too many values.

    >>> parse_yaml("a: &list [1, no]\\nb: *list")
    {'a': [1, False], 'b': [1, False]}
    >>> parse_yaml("a: [1, no]", words=True)
    {'a': ['1', 'no']}
    """
    import yaml  # imported here: commands without a configuration do not need it

    if len(text) > MAX_YAML:
        raise ValueError(f"more than {MAX_YAML:,} characters")

    class Loader(yaml.BaseLoader if words else yaml.SafeLoader):  # type: ignore[misc]
        """Counts values before building any: a value that is defined once and used often counts each time."""

        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self.counts: dict[int, int] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            named_before = self.check_event(yaml.AliasEvent)
            node = super().compose_node(parent, index)
            if not named_before:
                self.counts[id(node)] = 1 + sum(self.counts[id(part)] for part in _parts(node))
            elif id(node) not in self.counts:
                raise ValueError("a value that holds itself")
            if self.counts[id(node)] > MAX_NODES:
                raise ValueError(f"more than {MAX_NODES:,} values")
            return node

        def construct_yaml_int(self, node: Any) -> int:
            value = super().construct_yaml_int(node)
            if value.bit_length() > 64:  # Python cannot even print some of them
                raise ValueError("a whole number of more than 64 bits")
            return int(value)

    if not words:
        Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    try:
        loader = Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _parts(node: Any) -> list[Any]:
    """The nodes in a node of YAML."""
    value = node.value
    if not isinstance(value, list):
        return []
    return [part for entry in value for part in (entry if isinstance(entry, tuple) else (entry,))]


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


_ARCHIVE = b"PK\3\4"
"""First bytes of a file that torch reads as an archive."""


def check_archive(file: Path) -> None:
    """Raise InputError unless a torch file is a regular file whose parts are not larger than the file.

    torch never writes compressed parts, but would decompress them: a few kilobytes could fill the memory.
    """
    with open_regular(file) as opened:
        if opened.read(len(_ARCHIVE)) != _ARCHIVE:
            return  # torch's older format
        try:
            with zipfile.ZipFile(opened) as archive:
                size = sum(part.file_size for part in archive.infolist())
        except OSError as error:
            raise cannot_read(file, error) from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            raise InputError(f"{file}: not a readable checkpoint ({error}); fetch it again") from error
        if size > file.stat().st_size:
            raise InputError(f"{file}: not read: its parts are larger than itself, {size:,} bytes; fetch it again")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; it replaces the file when the block ends without an error.

    If ``file`` is a symbolic link, its target is replaced and the link stays. Unfinished files of killed processes in
    that folder are removed.

    Raises:
        InputError: the disk is full, the folder cannot be written to, or ``file`` is a device, a folder or a FIFO.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as beside:
    ...         _ = beside.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    try:
        place = _behind_links(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(place.parent)
        handle, beside = _unfinished(place)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise cannot_write(file, error) from error
    try:
        yield beside
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, place)
    except OSError as error:
        raise cannot_write(file, error) from error
    finally:
        beside.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _behind_links(file: Path) -> Path:
    """The target of a symbolic link, or the file itself."""
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(file))
    if not stat.S_ISREG(mode):
        raise InputError(f"{file}: {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}; name a file to write")
    return Path(os.path.realpath(file))


def _unfinished(place: Path) -> tuple[int | None, Path]:
    """A new file beside ``place``, and a handle that locks it for the life of this process.

    On systems without such locks there is no handle: Windows does not rename an open file.
    """
    while True:
        # Only the start of the name: the suffix would make the longest possible names too long.
        handle, name = tempfile.mkstemp(prefix=f".{place.name[:40]}.", suffix=_UNFINISHED, dir=place.parent)
        locked = lock(handle)
        if locked is None:
            os.close(handle)
            return None, Path(name)
        if os.path.exists(name):  # another process may have removed it before it was locked
            return handle, Path(name)
        os.close(handle)


def _remove_unfinished(folder: Path) -> None:
    """Remove the files of killed processes, which nobody has locked. Runs once per folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if entry.name.startswith(".") and entry.name.endswith(_UNFINISHED)]
    for name in names:
        with suppress(OSError):
            handle = os.open(name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if lock(handle):
                    os.unlink(name)
            finally:
                os.close(handle)


def lock(handle: int) -> bool | None:
    """True if this process now holds the file or folder, False if another one does, None if locks are not supported."""
    try:
        import fcntl
    except ImportError:  # a system without such a lock
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without such a lock
        return None
    return True


def write_text(file: Path, text: str) -> None:
    """Write a text file completely or not at all; invalid Unicode (in a strange file name) becomes a question mark."""
    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace")


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file completely or not at all."""
    write_text(file, json.dumps(value, indent=1) + "\n")


def cannot_read(file: Path, error: Exception) -> InputError:
    """One line about a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{file}: no such file")
    return InputError(f"{file}: cannot be read ({reason_of(error)})")


def cannot_write(file: Path, error: Exception) -> InputError:
    """One line about a file that cannot be written."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return InputError(f"{file}: the disk is full; nothing was changed, free some space and run the command again")
    return InputError(f"{file}: cannot be written ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """The system's message, without the path that Python adds."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
