"""A graph as a program of torch (``.pt2``), for ``torch.export.load``."""

import io
from typing import Any

import torch
from numpy.typing import NDArray

from focaldet.engine.exporting.tracing import Graph, trace
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.outputs import OutputArrays, Runner

CARD_FILE = f"{KEY}.json"
"""Of the card, among the extra files of a program."""


def torch_bytes(graph: Graph, card: ModelCard, dtype: torch.dtype) -> bytes:
    """The graph as a program with its card.

    Raises:
        InputError: the network cannot be traced.
    """
    memory = io.BytesIO()
    torch.export.save(trace(graph, dtype), memory, extra_files={CARD_FILE: card.to_json()})
    return memory.getvalue()


def torch_runner(data: bytes, output_names: tuple[str, ...]) -> Runner:
    """Runs such a program."""
    program = torch.export.load(io.BytesIO(data)).module()

    def run(images: NDArray[Any]) -> OutputArrays:
        with torch.no_grad():
            outputs = program(torch.from_numpy(images))
        return {name: values.numpy() for name, values in zip(output_names, outputs, strict=True)}

    return run
