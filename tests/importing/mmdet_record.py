"""The fixtures written by tests/tools/mmdet_fixtures.py, and their inputs."""

from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

TESTS = Path(__file__).resolve().parents[1]

_spec = spec_from_file_location("mmdet_fixtures", TESTS / "tools" / "mmdet_fixtures.py")
TOOL = module_from_spec(_spec)
_spec.loader.exec_module(TOOL)
"""The script: its image, its objects, its weights."""

CONSTANTS = ("num_batches_tracked", "project")
"""Tensors of a state dict that are no weights."""


@cache
def record(name):
    """Tensors of a fixture, and the text of mmdetection's configuration."""
    file = TESTS / "fixtures" / "mmdet" / f"{name}.safetensors"
    with safe_open(file, "pt") as opened:
        text = opened.metadata()["config"]
    return load_file(file), text


def shapes(name):
    """Of the state dict that mmdetection's detector has."""
    return {key.removeprefix("shape."): v.tolist() for key, v in record(name)[0].items() if key.startswith("shape.")}


@cache
def _weights(name):
    return {
        key: torch.zeros(shape) if key.endswith(CONSTANTS) else TOOL.weights_of(key, tuple(shape))
        for key, shape in shapes(name).items()
    }


def weights(name):
    """A state dict with its weights; the dict is the caller's own."""
    return dict(_weights(name))


def zeros(name):
    """The same without any weight, where names and shapes are enough."""
    return {key: torch.zeros(shape) for key, shape in shapes(name).items()}
