"""Reading, writing and checking the checkpoints of a run, and checks of run folders."""

import io
import math
import re
import warnings
from pathlib import Path
from types import NoneType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import nn

from focaldet.checks import InputError, check_finite_weights, check_range, first_names, one_line
from focaldet.engine.config import load_config
from focaldet.engine.module import DetectionModule
from focaldet.engine.typed_values import typed_value
from focaldet.files import check_archive, open_regular, replacing

BEGUN = {"config.yaml", "splits.json", "metrics.jsonl", "tensorboard"}
"""Files that a run has before its first checkpoint."""


def check_free(run: Path, otherwise: str = "") -> None:
    """Raise InputError unless a run folder is empty or does not exist.

    Args:
        otherwise: alternative to choosing another folder, added to the message.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"--out {run}: is a file; name a folder")
    names = _names(run)
    if names & {"metrics.jsonl", "model.json", "last.ckpt"}:
        raise InputError(f"--out {run}: already holds a run; choose another folder{otherwise}")
    if names:
        raise InputError(f"--out {run}: holds other files ({first_names(sorted(names), 3)}); name a new folder")


def is_begun(run: Path) -> bool:
    """Whether a folder holds a run that was stopped before its first checkpoint and weights."""
    names = _names(run)
    if "config.yaml" not in names or names & {"last.ckpt", "model.json"}:
        return False
    try:
        load_config(run / "config.yaml")
    except InputError:
        return False
    return True


def holds_only_begun(run: Path) -> bool:
    """Whether a folder holds only a run without a checkpoint, so that another run there would overwrite nothing."""
    return is_begun(run) and _names(run) <= BEGUN


def _names(folder: Path) -> set[str]:
    """Names in a folder, except hidden files of file managers and version control."""
    if not folder.is_dir():
        return set()
    try:
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be listed ({error.strerror})") from error


class WholeFiles(TorchCheckpointIO):
    """Writes Lightning's checkpoints completely or not at all, like every other file of a run."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        memory = io.BytesIO()  # torch.save hides a full disk in a RuntimeError without its errno
        torch.save(checkpoint, memory)
        with replacing(Path(path)) as beside:
            beside.write_bytes(memory.getbuffer())


PARTS: dict[str, type] = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
}
"""Required key of a checkpoint -> type of its value."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a run's Lightning checkpoint and check everything except its tensors, see ``check_fits``.

    Raises:
        InputError: the file cannot be read, or is not a checkpoint of a run.
    """
    check_archive(file)
    try:
        with open_regular(file) as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about kinds of tensors that are rejected below
            checkpoint: dict[str, Any] = torch.load(opened, map_location="cpu", weights_only=True)
        _check_parts(checkpoint)
    except Exception as error:  # each kind of damage raises another type
        reason = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        # torch's own message about a damaged pickle is a page about its options.
        reason = "its pickle is damaged" if reason.startswith("Weights only load failed") else reason
        raise InputError(f"{file}: not a readable checkpoint ({reason}); train again into another --out") from error
    return checkpoint


def _check_parts(checkpoint: Any) -> None:
    """Raise an error if a part of a checkpoint is missing or has the wrong type."""
    _check_type("content", checkpoint, dict)
    for name, kind in PARTS.items():
        _check_type(name, checkpoint[name], kind)
    for name in ("epoch", "global_step"):
        check_range(name, checkpoint[name], 0, 2**62)
    if not re.fullmatch(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)*", checkpoint["pytorch-lightning_version"]):
        raise ValueError("invalid version of Lightning")
    callbacks = checkpoint["callbacks"]
    for name, state in callbacks.items():
        _check_type(f"callbacks: {name}", state, dict)
    clock, recorder = callbacks["TimeBudget"], callbacks["RunRecorder"]
    check_range("elapsed_s", typed_value("elapsed_s", clock["elapsed_s"], float), 0)
    typed_value("best", recorder["best"], float)
    check_range("measured", typed_value("measured", recorder["measured"], int), 0)
    names = recorder.get("class_names", [])  # older runs do not have it
    _check_type("class_names", names, list)
    for name in names:
        _check_type("class_names", name, str)


def _check_type(name: str, value: Any, kind: type) -> None:
    if type(value) is not kind and not (kind is dict and isinstance(value, dict)):
        raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")


def check_loops(checkpoint: dict[str, Any], file: Path, trainer: L.Trainer) -> None:
    """Raise InputError unless a checkpoint holds the counters and callback states that this trainer reads."""
    fault = _unlike(trainer.fit_loop.state_dict(), checkpoint["loops"].get("fit_loop"), "fit_loop")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = callback.state_key
        if key in checkpoint["callbacks"]:
            fault = fault or _unlike(callback.state_dict(), checkpoint["callbacks"][key], type(callback).__name__)
    if fault:
        raise InputError(f"{file}: not a readable checkpoint ({fault}); train again into another --out")


def _unlike(here: Any, there: Any, name: str) -> str | None:
    """First difference in keys or types between nested dictionaries; ``None`` in ``here`` accepts anything."""
    if here is None:
        return None
    if type(there) is not type(here):
        return f"{name}: expected {type(here).__name__}, got {type(there).__name__}"
    if isinstance(here, dict):
        for key, value in here.items():
            if key not in there:
                return f"{name}: {key!r} is missing"
            if fault := _unlike(value, there[key], f"{name}.{key}"):
                return fault
    return None


def check_fits(checkpoint: dict[str, Any], file: Path, module: DetectionModule) -> None:
    """Raise InputError unless a checkpoint holds finite weights and moments with this module's shapes and types.

    torch checks none of this: given a moment of another shape, a fused step reads beyond its memory.
    """
    own, weights = module.state_dict(), checkpoint["state_dict"]
    for key in own.keys() | weights.keys():
        here, there = (_kind(state[key]) if key in state else "nothing" for state in (own, weights))
        if here != there:
            raise InputError(
                f"{file}: does not fit these options ({key} is {there}, expected {here}); resume with those in "
                f"{file.parent / 'config.yaml'}"
            )
    if fault := _moments_fault(checkpoint["optimizer_states"], module):
        raise InputError(
            f"{file}: its optimiser state does not fit ({fault}); start a new run from its weights with --weights RUN"
        )
    moments = {
        f"{name} of parameter {index}": value
        for index, state in checkpoint["optimizer_states"][0]["state"].items()
        for name, value in state.items()
    }
    check_finite_weights(file, weights | moments)


def _moments_fault(optimizers: list[Any], module: DetectionModule) -> str | None:
    """Why the optimiser states do not fit the module's optimiser; ``None`` if they do."""
    example = torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).param_groups[0] | {"peak_lr": 0.0}
    groups = module.parameter_groups()
    if len(optimizers) != 1 or _unlike({"state": {}, "param_groups": []}, optimizers[0], ""):
        return "expected one optimiser with state and param_groups"
    state, theirs = optimizers[0]["state"], optimizers[0]["param_groups"]
    if len(theirs) != len(groups):
        return f"{len(theirs)} parameter groups, expected {len(groups)}"
    parameters: list[nn.Parameter] = []
    for group, own in zip(theirs, groups.values(), strict=True):
        first = len(parameters)
        parameters += own
        if not isinstance(group, dict) or group.get("params") != list(range(first, len(parameters))):
            return f"a parameter group does not hold parameters {first} to {len(parameters) - 1}"
        for name, value in example.items():
            if name not in group:
                return f"{name!r} is missing in a parameter group"
            # A flag may also be None, which leaves the choice to torch.
            kinds = (bool, NoneType) if isinstance(value, bool | NoneType) else (type(value),)
            if name != "params" and not isinstance(group[name], kinds):
                return f"{name} is {type(group[name]).__name__}, expected {type(value).__name__}"
        numbers = [group[name] for name in ("lr", "peak_lr", "eps", "weight_decay")] + list(group["betas"])
        if len(numbers) != 6 or not all(isinstance(x, float) and 0 <= x < math.inf for x in numbers):
            return "its options are not finite numbers"
    for index, moments in state.items():
        if type(index) is not int or not 0 <= index < len(parameters):
            return f"it has a state of parameter {index!r}, but there are {len(parameters)} parameters"
        like = {"step": torch.zeros(()), "exp_avg": parameters[index], "exp_avg_sq": parameters[index]}
        if not isinstance(moments, dict) or moments.keys() != like.keys():
            return f"parameter {index}: expected {', '.join(like)}"
        for name, tensor in like.items():
            here, there = _kind(tensor), _kind(moments[name])
            if here != there:
                return f"{name} of parameter {index} is {there}, expected {here}"
    return None


def _kind(tensor: Any) -> str:
    """Shape, dtype and layout of a tensor in words, or the type of any other value.

    >>> _kind(torch.zeros(2, 3)), _kind("x"), _kind(torch.zeros(1).expand(5))
    ('(2, 3) float32', 'str', '(5,) float32, overlapping')
    """
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    words = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return f"{words}, {tensor.layout if tensor.device.type != 'meta' else 'empty'}"
    dense = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    return words if dense else f"{words}, overlapping"
