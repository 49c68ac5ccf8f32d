"""Read a checkpoint as tensors and plain values, without executing code from it.

Only ``torch.load(weights_only=True)`` reads pickles here: it builds tensors, dicts, lists, numbers and strings, and
calls nothing else. Training libraries store more in their checkpoints (logs, arrays, options). If the pickle names a
class of a package known for this, an empty stand-in replaces it; any other name is rejected.
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
"""Packages whose objects training libraries store in checkpoints next to the weights."""

NAMES = frozenset({"collections.defaultdict", *(f"builtins.{n}" for n in ("getattr", "list", "dict", "int", "float"))})
"""Other names that they store. Stand-ins replace these too: ``getattr`` is never called."""

HARMLESS = frozenset({"collections.OrderedDict", "collections.Counter", "_codecs.encode"}) | {
    f"builtins.{name}" for name in ("set", "bytearray", "complex")
}
"""Names outside torch that ``torch.load(weights_only=True)`` accepts."""

WEIGHTS = ("state_dict", "model", "model_state_dict")
"""Keys that may hold the tensors, if the file contains more than tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Args:
        file: path of the file.
        weights: tensors by name; floating-point ones as float32.
        meta: other plain values; objects of other types are ``Inert``.
    """

    file: Path
    weights: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


class Inert:
    """Stand-in for an object that is not needed: accepts any arguments and stores nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict:
    """Stand-in for a dict class: makes an empty dict, which the pickle then fills."""

    def __new__(cls, *args: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a torch checkpoint, in the old or new format, or a safetensors file.

    Raises:
        InputError: the file is missing or damaged, holds no weights, or its pickle would execute code.
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
    weights = {str(name).removeprefix("module."): value for name, value in held.items()}  # the prefix of DataParallel
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
    """Why a value cannot be used as a weight; ``""`` if it can."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_meta or value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_nested:
        return f"an unsupported kind of tensor ({value.layout}, {value.dtype}, {value.device})"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "a tensor with overlapping elements"
    if not value.to(_dtype(value)).isfinite().all():
        return "a tensor that contains infinity or NaN"
    return ""


def _dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _unpickle(file: Path) -> Any:
    check_archive(file)
    names: set[str] = set()
    with contextlib.suppress(Exception):  # torch.load below describes a damaged file better
        for name in _called(file):
            names.add(name)
    if any(name.startswith("__torch__.") for name in names):
        raise InputError(f"{file}: this is a TorchScript program; expected tensors by name, as from model.state_dict()")
    known = {name for name in names if name.split(".")[0] in PACKAGES or name in NAMES}
    for name in sorted(names - known - HARMLESS):
        if not name.startswith("torch."):
            raise _refusal(file, name)
    stand_ins = [(InertDict if name.endswith((".defaultdict", "Dict")) else Inert, name) for name in known]
    try:
        with warnings.catch_warnings(), safe_globals(stand_ins):  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # about old storages and other protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise any type
        if found := re.search(r"GLOBAL (\S+) was not an allowed", str(error)):
            raise _refusal(file, found[1]) from error
        # torch's own message about a damaged pickle is a page about its options.
        reason = "its pickle is damaged" if "Weights only load failed" in str(error) else one_line(error)
        raise InputError(f"{file}: not a readable checkpoint ({reason}); download it again") from error


def _refusal(file: Path, name: str) -> InputError:
    return InputError(
        f"{file}: refused: its pickle calls {name}, which could execute code; expected tensors and plain values"
    )


def _called(file: Path) -> Iterator[str]:
    """Dotted names of the classes and functions in the pickles of a checkpoint."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for record in archive.namelist():
                if record.endswith("data.pkl"):
                    with archive.open(record) as pickle:
                        yield from _names(pickle)
    else:
        with file.open("rb") as opened:
            for _ in range(5):  # magic number, protocol, system, the object, storage keys
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
