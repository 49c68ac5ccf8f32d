"""Write a graph to a program of torch (``.pt2``), for ``torch.export.load``."""

import io
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.symbol import SymT, symbol_is_type
from torch.utils._sympy.value_ranges import ValueRanges

from focaldet.exporting.tracing import Graph, trace
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.outputs import OutputArrays, Runner

CARD_FILE = f"{KEY}.json"
"""Name of the model card among the extra files of a program."""


def torch_bytes(graph: Graph, card: ModelCard, dtype: torch.dtype) -> bytes:
    """The bytes of an exported program of the graph, with the model card.

    Args:
        dtype: dtype of the images.

    Raises:
        InputError: the network cannot be traced.
    """
    program = trace(graph, dtype)
    _allow_small(program)
    memory = io.BytesIO()
    torch.export.save(program, memory, extra_files={CARD_FILE: card.to_json()})
    return memory.getvalue()


def _allow_small(program: ExportedProgram) -> None:
    """Remove the assumption of the trace that every level of the pyramid is wider than one location.

    With the assumption, the program would reject images of up to 128 pixels. It comes from the memory layout of
    tensors, which does not affect the result.
    """
    program._guards_code = []
    for symbol in program.range_constraints:
        program.range_constraints[symbol] = ValueRanges(0 if symbol_is_type(symbol, SymT.UNBACKED_INT) else 1, int_oo)


def torch_runner(data: bytes, output_names: tuple[str, ...]) -> Runner:
    """A function that runs such a program."""
    program = torch.export.load(io.BytesIO(data)).module()

    def run(images: NDArray[Any]) -> OutputArrays:
        with torch.no_grad():
            outputs = program(torch.tensor(images))
        return {name: values.numpy() for name, values in zip(output_names, outputs, strict=True)}

    return run
