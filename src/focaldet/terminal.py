"""What a command line says and how it ends: one line about a mistake, and an exit code."""

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
}
"""Package that a command may miss -> the extra that brings it; the others come with ``train``."""


MOST_SAID = 1000
"""Characters of a line on stdout: a file of labels may hold a name of any length."""


def say(text: str) -> None:
    """Print lines at once, for whoever follows a log. A reader who has gone (``| head -1``) ends no training."""
    try:
        print("\n".join(shortened(escaped(line), MOST_SAID) for line in text.split("\n")), flush=True)
    except BrokenPipeError:
        _close(sys.stdout)


def mistake(line: str) -> int:
    """Tell a mistake of the user's in one line. Returns the exit code."""
    try:
        print(f"focaldet: {printable(line)}", file=sys.stderr, flush=True)
    except OSError:  # a full disk behind it, or nobody who reads it
        _close(sys.stderr)
    return 2


def exit_code(work: Callable[[], int | None], command: str = "") -> int:
    """Do the work of a command, and tell in one line what went wrong.

    Returns:
        0, or what the work returns; 2 after a mistake of the user's, or where the machine has no memory, no disk, or
        no right to a file; 130 after Ctrl-C.

    >>> def work():
    ...     raise InputError("photo.jpg: no such file")
    >>> exit_code(work)  # and on stderr: "focaldet: photo.jpg: no such file"
    2
    """
    _prepare_streams()
    try:
        code = work() or 0
        sys.stdout.flush()  # here, not at Python's end, which would say more than a line about a full disk
        return code
    except InputError as error:
        return mistake(str(error))
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        if package == "focaldet":
            raise
        return mistake(f"{command}: {package} is not installed; pip install 'focaldet[{EXTRAS.get(package, 'train')}]'")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process without another word
        print("focaldet: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close(sys.stdout)
        return 0
    except MemoryError:
        return mistake(f"{command}: not enough memory; close other programs, or take less at a time")
    except RuntimeError as error:  # Path.resolve before Python 3.13
        if not str(error).startswith("Symlink loop"):
            raise
        return mistake(f"{command}: {error}: a link that leads to itself; give the file or folder itself")
    except OSError as error:  # what no command has foreseen: a broken disk, a link that names itself, a name too long
        if error.errno == errno.ENOSPC:
            _close(sys.stdout)
            return mistake(f"{error.filename or 'what is written'}: the disk is full; free some space")
        place = error.filename or command
        place = os.fsdecode(place) if isinstance(place, str | bytes) else place
        return mistake(f"{place}: cannot be read or written ({error.strerror or error})")


def _close(stream: TextIO) -> None:
    """Nobody reads what is printed from here on."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_streams() -> None:
    """Output that is closed goes nowhere, and what a terminal cannot print is printed as its number."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the process began
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
