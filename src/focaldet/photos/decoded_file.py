"""The pixels of a photo in a temporary file, for formats that can only be decoded from the start."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from errno import ENOSPC
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError, WorkerError
from focaldet.photos.tiling import Window


class NoRoomError(WorkerError):
    """The disk has no room for the decoded pixels of a photo."""


class DecodedFile:
    """RGB rows in a temporary file, which is removed when it is closed or the process ends.

    Args:
        path: the photo.
        width, height: its size as stored.
        keep: folder in which the file is kept instead, for the next process that opens the photo.

    Attributes:
        ready: whether the file existed already.
        problem: what could not be decoded, or "".
    """

    def __init__(self, path: Path, width: int, height: int, keep: Path | None = None) -> None:
        self.path, self.width, self.height = path, width, height
        self.problem = ""
        self._kept = None if keep is None else keep / f"{blake2b(bytes(path.resolve())).hexdigest()[:32]}.rgb"
        self.ready = self._kept is not None and self._kept.exists()
        self._file: BinaryIO
        if self._kept is not None and self.ready:
            self._file = self._kept.open("rb")
            said = self._kept.with_suffix(".txt")
            self.problem = said.read_text(encoding="utf-8") if said.exists() else ""
            return
        self._folder = str(keep or tempfile.gettempdir())
        needed, room = 3 * width * height, shutil.disk_usage(self._folder).free
        if needed > room:
            raise NoRoomError(
                f"{path}: its decoded pixels take {needed / 1e9:.1f} GB, and {self._folder} has room for "
                f"{room / 1e9:.1f} GB; make room, name another folder in TMPDIR, or save it as TIFF in tiles"
            )
        if self._kept is None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="focaldet-"))
        else:
            self._file = cast(BinaryIO, tempfile.NamedTemporaryFile(dir=self._folder, delete=False))

    def write(self, strips: Iterable[NDArray[np.uint8]], fill: int, problem: Callable[[], str] = str) -> None:
        """Write the rows from the top; if they end too early, fill the rest.

        Args:
            strips: the rows.
            fill: value of missing rows.
            problem: says, after the last row, which part could not be decoded.
        """
        try:
            for strip in strips:
                self._file.write(np.ascontiguousarray(strip).data)
        except OSError as error:
            if error.errno == ENOSPC:
                raise NoRoomError(f"{self.path}: no room for its decoded pixels in {self._folder}") from error
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        self.problem = problem()
        self.complete(fill)

    def complete(self, fill: int) -> None:
        """Check the number of rows and fill the missing ones."""
        self._file.seek(0, 2)
        rows = self._file.tell() // (3 * self.width)
        if not rows:
            raise InputError(f"{self.path}: damaged image (no row of it can be read); fetch it again")
        if rows < self.height:
            self.problem = f"rows from {rows:,} on cannot be read; they are grey"
            self._file.seek(rows * 3 * self.width)
            for _ in range(rows, self.height):
                self._file.write(bytes([fill]) * (3 * self.width))
        self._file.flush()
        if self._kept is not None:
            if self.problem:
                self._kept.with_suffix(".txt").write_text(self.problem, encoding="utf-8")
            with contextlib.suppress(PermissionError):  # Windows: open files keep their names
                os.replace(self._file.name, self._kept)

    def take_jpeg(self, fill: int) -> None:
        """Write the rows of a JPEG file, decoded by libvips in a separate process."""
        script = Path(__file__).with_name("jpeg_rows.py")
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(self.path)], stdout=self._file, stderr=subprocess.PIPE, check=False
        )
        if done.returncode not in (0, 1):
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise InputError(f"{self.path}: cannot be decoded ({lines[-1] if lines else 'libvips ended'})")
        self.complete(fill)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """A part of the photo."""
        left, top, width, height = window
        # A new mapping for each read, so that its pages do not stay in the process's memory.
        with mmap(self._file.fileno(), 0, access=ACCESS_READ) as mapped:
            rows = np.frombuffer(mapped, np.uint8).reshape(self.height, self.width, 3)
            part = rows[top : top + height, left : left + width].copy()
            del rows
        return part

    def discard(self) -> None:
        """Remove an incomplete file."""
        self._file.close()
        if self._kept is not None:
            Path(self._file.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and remove it, unless it is kept."""
        self._file.close()


def strips_of(rows: NDArray[np.uint8], height: int) -> Iterator[NDArray[np.uint8]]:
    """A photo in strips of a few rows."""
    for top in range(0, len(rows), height):
        yield rows[top : top + height]
