"""Output and exit code of a command: mistakes are reported in one line."""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from focaldet.checks import InputError, escaped, printable, shortened

EXTRAS = {
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "huggingface_hub": "hub",
}
"""Package that may be missing -> the extra that installs it; ``train`` installs all others."""


MAX_SAID = 1000
"""Largest length of a line on stdout, in characters: label files may contain names of any length."""


def say(text: str) -> None:
    """Print lines and flush. A closed pipe (``| head -1``) does not end the command."""
    try:
        print("\n".join(shortened(escaped(line), MAX_SAID) for line in text.split("\n")), flush=True)
    except BrokenPipeError:
        _close(sys.stdout)


def mistake(line: str) -> int:
    """Report a user's mistake in one line. Returns the exit code."""
    try:
        print(f"focaldet: {printable(line)}", file=sys.stderr, flush=True)
    except OSError:  # the disk behind it is full, or nobody reads it
        _close(sys.stderr)
    return 2


def exit_code(work: Callable[[], int | None], command: str = "") -> int:
    """Do the work of a command, and report errors in one line.

    Returns:
        0, or the result of ``work``; 2 after a user's mistake, and if memory, disk space or file permissions are
        missing; 130 after Ctrl-C.

    >>> def work():
    ...     raise InputError("photo.jpg: no such file")
    >>> exit_code(work)  # and on stderr: "focaldet: photo.jpg: no such file"
    2
    """
    _prepare_streams()
    try:
        code = work() or 0
        sys.stdout.flush()  # here, because Python's own flush at exit prints a traceback if the disk is full
        return code
    except InputError as error:
        return mistake(str(error))
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        if package == "focaldet":
            raise
        return mistake(f"{command}: {package} is not installed; pip install 'focaldet[{EXTRAS.get(package, 'train')}]'")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process silently
        print("focaldet: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close(sys.stdout)
        return 0
    except MemoryError:
        return mistake(f"{command}: not enough memory; close other programs, or process less at a time")
    except RuntimeError as error:  # Path.resolve before Python 3.13
        if not str(error).startswith("Symlink loop"):
            raise
        return mistake(f"{command}: {error}: this link points to itself; give the file or folder")
    except OSError as error:  # errors that no command handles: a broken disk, a circular link, a name that is too long
        if error.errno == errno.ENOSPC:
            _close(sys.stdout)
            return mistake(f"{error.filename or 'output'}: the disk is full; free some space")
        place = error.filename or command
        place = os.fsdecode(place) if isinstance(place, str | bytes) else place
        return mistake(f"{place}: cannot be read or written ({error.strerror or error})")


def _close(stream: TextIO) -> None:
    """Discard all further output to a stream."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_streams() -> None:
    """Discard output to a closed stream, and escape characters that a terminal cannot print."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the process started
            # Without closefd Python would warn of a file that is never closed.
            nowhere = open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", errors="replace", closefd=False)
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
