"""Trace a graph of modules to a program of operators, for batches of any size and images of any size."""

import warnings

import torch
from torch.export import Dim, ExportedProgram, export

from focaldet.checks import InputError, one_line
from focaldet.exporting.graph import DetectionGraph, LocationGraph, MeasuredGraph, RawGraph

Graph = DetectionGraph | LocationGraph | RawGraph | MeasuredGraph

TRACED_SIZE = (2, 192, 256)
"""Batch size, height and width of the images used for tracing."""


def trace(graph: Graph, dtype: torch.dtype) -> ExportedProgram:
    """Trace a graph to a program for images ``(B, H, W, 3)``.

    Args:
        dtype: dtype of the images.

    Raises:
        InputError: the network cannot be traced, or supports one image size only.
    """
    images = torch.zeros(*TRACED_SIZE, 3, dtype=dtype)
    any_size = ({axis: Dim.DYNAMIC for axis in range(3)},)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch and torchvision warn about each other
            # Without gradients, so that users need not disable them to read the outputs.
            return export(graph.eval().requires_grad_(False), (images,), dynamic_shapes=any_size)
    except Exception as error:  # networks raise different classes
        raise InputError(
            f"torch.export cannot trace this network for images of any size ({one_line(error)})"
        ) from error
