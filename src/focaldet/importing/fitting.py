"""Load the tensors of another library into a network, accounting for every tensor."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from focaldet.checks import InputError
from focaldet.engine.spec import ModelSpec

RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
"""(Blocks of each stage, whether they are bottlenecks) -> name in timm."""

COUNTERS = "num_batches_tracked"
"""Suffix of a batch norm's counter, which is not needed; frozen batch norms have none."""


@dataclass(frozen=True)
class Import:
    """A network of another library, ready to be loaded.

    Args:
        architecture: its description in that library, for messages.
        spec: its description in focaldet.
        weights: its tensors under their original names, in the layout of focaldet.
        name_there: maps a tensor's name here to its original name, or to ``None`` if the other library lacks it.
        unused: pattern of original names that are not needed here.
        notes: assumptions, one line each.
    """

    architecture: str
    spec: ModelSpec
    weights: dict[str, Tensor]
    name_there: Callable[[str], str | None]
    unused: re.Pattern[str] = re.compile("(?!)")
    notes: list[str] = field(default_factory=list)


def renamed(rules: Sequence[tuple[str, str | None]]) -> Callable[[str], str | None]:
    """Make a function that renames by the first rule whose pattern matches the whole name.

    >>> renamed([(r"mean|std", None), (r"head\\.(.*)", r"bbox_head.\\1")])("head.bias")
    'bbox_head.bias'
    """

    def rename(name: str) -> str | None:
        for pattern, there in rules:
            if found := re.fullmatch(pattern, name):
                return None if there is None else found.expand(there)
        raise KeyError(name)

    return rename


def fit(net: nn.Module, source: Import, file: Path) -> None:
    """Load the tensors into the network.

    Raises:
        InputError: a tensor is missing, unexpected, or has another shape.
    """
    own = net.state_dict()
    there = {name: source.name_there(name) for name in own}
    taken = {name: source.weights[name_there] for name, name_there in there.items() if name_there in source.weights}
    missing = [
        name_there
        for name, name_there in there.items()
        if name_there is not None and name not in taken and not name.endswith(COUNTERS)
    ]
    what = f"{file}: does not fit {source.architecture}"
    if missing:
        raise InputError(
            f"{what}: {len(missing)} of its {len(own)} tensors are missing in the file, first {missing[0]!r}"
        )
    names = set(there.values())
    unknown = [
        name
        for name in source.weights
        if name not in names and not name.endswith(COUNTERS) and not source.unused.fullmatch(name)
    ]
    if unknown:
        raise InputError(f"{what}: {len(unknown)} tensors of the file are unexpected, first {unknown[0]!r}")
    for name, tensor in taken.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{what}: {there[name]!r} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
            )
    net.load_state_dict(own | taken)


def resnet_name(weights: Mapping[str, Tensor], prefix: str) -> str:
    """Name in timm of the ResNet whose tensors start with ``prefix``.

    Raises:
        InputError: it is not a known ResNet.

    >>> blocks = [f"layer{stage}.{block}.conv1.weight" for stage in (1, 2, 3, 4) for block in (0, 1)]
    >>> resnet_name(dict.fromkeys(blocks, None), "")
    'resnet18'
    """
    stages: list[set[str]] = [set(), set(), set(), set()]
    pattern = re.compile(re.escape(prefix) + r"layer([1-4])\.(\d+)\.conv1\.weight")
    for name in weights:
        if found := pattern.fullmatch(name):
            stages[int(found[1]) - 1].add(found[2])
    blocks = tuple(len(stage) for stage in stages)
    bottleneck = f"{prefix}layer1.0.conv3.weight" in weights
    resnet = RESNETS.get((blocks, bottleneck))
    if resnet is None:
        raise InputError(
            f"unknown backbone: expected the stages of {', '.join(RESNETS.values())}, found "
            f"{'bottlenecks' if bottleneck else 'blocks'} {blocks}"
        )
    return resnet


def tensor(weights: Mapping[str, Tensor], name: str, architecture: str, axes: int = 4) -> Tensor:
    """Look up a tensor; by default a convolution's weight, with four axes.

    Raises:
        InputError: it is missing, or has another number of axes.
    """
    if name not in weights:
        raise InputError(f"does not fit {architecture}: {name!r} is missing")
    if weights[name].ndim != axes:
        raise InputError(
            f"does not fit {architecture}: {name!r} has shape {tuple(weights[name].shape)}, expected {axes} axes"
        )
    return weights[name]


def tower_depth(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Number of convolutions in a tower: its tensors with four axes."""
    return sum(name.startswith(prefix) and value.ndim == 4 for name, value in weights.items())


def class_count(rows: int, num_anchors: int, architecture: str) -> int:
    """Number of classes for this number of rows of the class convolution.

    Raises:
        InputError: ``rows`` is not a multiple of the number of anchors.
    """
    if rows % num_anchors:
        raise InputError(
            f"does not fit {architecture}: {rows} class outputs, expected a multiple of {num_anchors} anchors"
        )
    return rows // num_anchors
