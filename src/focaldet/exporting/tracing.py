"""From a graph of modules to a program of operators, for images of any number and size."""

import warnings

import torch
from torch.export import Dim, ExportedProgram, export

from focaldet.checks import InputError, one_line
from focaldet.exporting.graph import DetectionGraph, LocationGraph, MeasuredGraph, RawGraph

Graph = DetectionGraph | LocationGraph | RawGraph | MeasuredGraph

TRACED_SIZE = (2, 192, 256)
"""Batch, height and width of the images that a graph is traced with."""


def trace(graph: Graph, dtype: torch.dtype) -> ExportedProgram:
    """The graph as a program for images ``(B, H, W, 3)``.

    Raises:
        InputError: the network cannot be traced, or has one size built in.
    """
    images = torch.zeros(*TRACED_SIZE, 3, dtype=dtype)
    any_size = ({axis: Dim.DYNAMIC for axis in range(3)},)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch and torchvision about each other
            # Without gradients: who runs the program would else have to switch them off before taking the numbers.
            return export(graph.eval().requires_grad_(False), (images,), dynamic_shapes=any_size)
    except Exception as error:  # every network fails in its own way
        raise InputError(
            f"torch.export cannot trace this network for images of any size ({one_line(error)})"
        ) from error
