"""Count a program's torch operators and its reads of tensor values, each of which waits for a GPU."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

LOOKS = {
    "_local_scalar_dense",  # item, bool, int, float
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "bincount",
    "repeat_interleave",
}
"""Operators whose result, or its size, the host must wait for."""


ON_CPU_ALONE = {Path("focaldet/kernels/ops.py"), Path("focaldet/models/best_few.py")}
"""Files that read values where that costs nothing: to decide whether to write in place, or how much to sort."""


class Operators(TorchDispatchMode):
    """Counts while entered, except calls inside ``without``."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.looks: list[str] = []
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused:
            name = func.__name__.split(".")[0]
            self.names.append(name)
            if name in LOOKS or (name in ("index", "index_put", "index_put_") and _by_mask(args[1])):
                self._look(name)
        return func(*args, **(kwargs or {}))

    def _look(self, name: str) -> None:
        frames = [Path(frame.filename) for frame in traceback.extract_stack()]
        if ON_CPU_ALONE.isdisjoint(Path(*frame.parts[-3:]) for frame in frames):
            self.looks.append(name)

    @contextmanager
    def without(self) -> Iterator[None]:
        """Calls in this context do not count."""
        self.paused, before = True, self.paused
        try:
            yield
        finally:
            self.paused = before


class Lists(TorchFunctionMode):
    """Count ``tolist``, which torch executes without an operator if the values are in host memory."""

    def __init__(self, operators: Operators) -> None:
        super().__init__()
        self.operators = operators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist and not self.operators.paused:
            self.operators._look("tolist")
        return func(*args, **(kwargs or {}))


def _by_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)


@contextmanager
def counted() -> Iterator[Operators]:
    """Counts calls in this context."""
    operators = Operators()
    with operators, Lists(operators):
        yield operators
