"""Checkpoints of a run, and whether a folder can take one."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import nn

from focaldet.checks import InputError
from focaldet.files import replacing


def check_free(run: Path, otherwise: str = "") -> None:
    """Raise InputError when a folder that was asked for cannot take a new run.

    Args:
        otherwise: what else than another folder could be meant.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"--out {run}: is a file; name a folder")
    if (run / "metrics.jsonl").exists() or (run / "model.json").exists():
        raise InputError(f"--out {run}: holds a run already; choose another folder{otherwise}")


class WholeFiles(TorchCheckpointIO):
    """Writes Lightning's checkpoints as every other file of a run: whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        memory = io.BytesIO()  # torch.save hides a full disk in a RuntimeError without its errno
        torch.save(checkpoint, memory)
        with replacing(Path(path)) as beside:
            beside.write_bytes(memory.getbuffer())


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A run's checkpoint of Lightning.

    Raises:
        InputError: it cannot be read, or is of something else.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        _ = checkpoint["state_dict"], checkpoint["epoch"], checkpoint["callbacks"]["TimeBudget"]["elapsed_s"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: not a readable checkpoint ({reason}); train again into another --out") from error
    return checkpoint


def check_fits(checkpoint: dict[str, Any], file: Path, module: nn.Module) -> None:
    """Raise InputError unless a checkpoint holds weights of this module's shapes."""
    own, weights = module.state_dict(), checkpoint["state_dict"]
    for key in own.keys() | weights.keys():
        here, there = (tuple(state[key].shape) if key in state else "nothing" for state in (own, weights))
        if here != there:
            raise InputError(
                f"{file}: does not fit these options ({key}: {there} there, {here} here); resume with those of "
                f"{file.parent / 'config.yaml'}"
            )
