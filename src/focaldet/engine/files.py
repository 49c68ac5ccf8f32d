"""Files of a run: written beside and renamed, so that a kill or a full disk leaves the old file or the new one."""

import errno
import io
import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import nn

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
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
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


def check_free(run: Path, otherwise: str = "") -> None:
    """Raise InputError when a folder that was asked for cannot take a new run.

    Args:
        otherwise: what else than another folder could be meant.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"--out {run}: is a file; name a folder")
    if (run / "metrics.jsonl").exists() or (run / "model.json").exists():
        raise InputError(f"--out {run}: holds a run already; choose another folder{otherwise}")


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8")


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


class WholeFiles(TorchCheckpointIO):
    """Writes Lightning's checkpoints as every other file of a run: whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        memory = io.BytesIO()  # torch.save hides a full disk in a RuntimeError without its errno
        torch.save(checkpoint, memory)
        with replacing(Path(path)) as beside:
            beside.write_bytes(memory.getbuffer())


def check_checkpoint(file: Path, module: nn.Module) -> None:
    """Raise InputError unless a checkpoint of Lightning can be read and holds weights of this module's shapes."""
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: not a readable checkpoint ({reason}); train anew into another --out") from error
    own = module.state_dict()
    for key in own.keys() | weights.keys():
        here, there = (tuple(state[key].shape) if key in state else "nothing" for state in (own, weights))
        if here != there:
            raise InputError(
                f"{file}: does not fit these options ({key}: {there} there, {here} here); resume with those of "
                f"{file.parent / 'config.yaml'}"
            )


def cannot_write(file: Path, error: OSError) -> InputError:
    """The one line for a file that cannot be written."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{file}: the disk is full; nothing was changed, free some space and run the command again")
    return InputError(f"{file}: cannot be written ({error.strerror or error})")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
