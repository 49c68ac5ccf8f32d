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
"""The script that wrote the fixtures: its image, objects and weights."""

CONSTANTS = ("num_batches_tracked", "project")
"""Tensors of a state dict that are not weights."""


@cache
def record(name):
    """Tensors of a fixture, and the text of mmdetection's configuration."""
    file = TESTS / "fixtures" / "mmdet" / f"{name}.safetensors"
    with safe_open(file, "pt") as opened:
        text = opened.metadata()["config"]
    return load_file(file), text


def shapes(name):
    """Names and shapes of the state dict of mmdetection's detector."""
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
    """The same with empty weights, for tests that need only names and shapes."""
    return {key: torch.zeros(shape) for key, shape in shapes(name).items()}
