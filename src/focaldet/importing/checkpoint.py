"""A checkpoint file as tensors and plain values, without running anything that it holds.

Only ``torch.load(weights_only=True)`` reads a pickle here: it makes tensors, dicts, lists, numbers and strings, and
calls nothing else. Training codes put more into their checkpoints (logs, arrays, options). Where the pickle names a
class of a package that is known to do so, an empty stand-in takes its place; any other name ends the reading.
"""

import contextlib
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from focaldet.checks import InputError, one_line
from focaldet.files import check_archive, open_regular

PACKAGES = frozenset({"mmengine", "mmcv", "mmdet", "addict", "numpy", "argparse", "pathlib"})
"""Packages whose objects training codes leave in their checkpoints, beside the weights."""

NAMES = frozenset({"collections.defaultdict", *(f"builtins.{n}" for n in ("getattr", "list", "dict", "int", "float"))})
"""Other names that they leave. These too are only stood for: nothing is called ``getattr`` here."""

HARMLESS = frozenset({"collections.OrderedDict", "collections.Counter", "_codecs.encode"}) | {
    f"builtins.{name}" for name in ("set", "bytearray", "complex")
}
"""What torch itself reads beside what is its own."""

WEIGHTS = ("state_dict", "model", "model_state_dict")
"""Where the tensors are, when they are not all that the file holds."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        file: its path.
        weights: tensors by name, floating ones as float32.
        meta: plain values beside them; what is no plain value is an ``Inert``.
    """

    file: Path
    weights: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


class Inert:
    """Stands for an object of a package that is not needed: takes anything, keeps nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict:
    """Stands for a kind of dict: makes an empty one, which the pickle then fills."""

    def __new__(cls, *args: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint of torch, old or new format, or a safetensors file.

    Raises:
        InputError: missing, broken, without weights, or a pickle that would run code.
    """
    with open_regular(file) as opened:
        start = opened.read(9)
    if start[8:] == b"{":
        try:
            content: Any = load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({one_line(error)})") from error
    else:
        content = _unpickle(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a dict of tensors, found a {type(content).__name__}")
    held = next((content[key] for key in WEIGHTS if isinstance(content.get(key), dict)), content)
    weights = {str(name).removeprefix("module."): value for name, value in held.items()}  # of a model for many GPUs
    strange = [f"{name!r}: {fault}" for name, value in weights.items() if (fault := _fault(value))]
    if strange or not weights:
        raise InputError(
            f"{file}: expected tensors by name, or a dict with them at {', '.join(map(repr, WEIGHTS))}; found "
            + (strange[0] if strange else "nothing")
        )
    meta = content.get("meta")
    return Checkpoint(
        file,
        {name: value.detach().to(_dtype(value)) for name, value in weights.items()},
        meta if isinstance(meta, dict) else {},
    )


def _fault(value: Any) -> str:
    """Why a value is no weight that can be used; ``""`` where it is one."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_meta or value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_nested:
        return f"a tensor of a kind that is no weight here ({value.layout}, {value.dtype}, {value.device})"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "a tensor that uses the same numbers for many places"
    if not value.to(_dtype(value)).isfinite().all():
        return "a tensor with numbers that are not finite"
    return ""


def _dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _unpickle(file: Path) -> Any:
    check_archive(file)
    names: set[str] = set()
    with contextlib.suppress(Exception):  # torch says better what is wrong with a broken file
        for name in _called(file):
            names.add(name)
    if any(name.startswith("__torch__.") for name in names):
        raise InputError(f"{file}: a TorchScript program; expected tensors by name, as model.state_dict() gives them")
    known = {name for name in names if name.split(".")[0] in PACKAGES or name in NAMES}
    for name in sorted(names - known - HARMLESS):
        if not name.startswith("torch."):
            raise _refusal(file, name)
    stand_ins = [(InertDict if name.endswith((".defaultdict", "Dict")) else Inert, name) for name in known]
    try:
        with warnings.catch_warnings(), safe_globals(stand_ins):  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # of old storages and other protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a broken or hostile file: every type there is
        if found := re.search(r"GLOBAL (\S+) was not an allowed", str(error)):
            raise _refusal(file, found[1]) from error
        # torch's own words for a damaged pickle are a page about its options.
        reason = "its pickle is damaged" if "Weights only load failed" in str(error) else one_line(error)
        raise InputError(f"{file}: not a readable checkpoint ({reason}); fetch it again") from error


def _refusal(file: Path, name: str) -> InputError:
    return InputError(
        f"{file}: not read: its pickle calls {name}, which could run anything; expected tensors and plain values"
    )


def _called(file: Path) -> Iterator[str]:
    """Dotted names of the classes and functions that the pickles of a checkpoint refer to."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for record in archive.namelist():
                if record.endswith("data.pkl"):
                    with archive.open(record) as pickle:
                        yield from _names(pickle)
    else:
        with file.open("rb") as opened:
            for _ in range(5):  # magic number, protocol, system, the object, keys of the storages that follow
                yield from _names(opened)


def _names(pickle: IO[bytes]) -> Iterator[str]:
    words: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(words[-2:])
        elif isinstance(argument, str):
            words.append(argument)
