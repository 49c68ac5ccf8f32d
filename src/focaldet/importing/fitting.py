"""From the tensors of another code to those of a network here, each one accounted for."""

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
"""Blocks of each stage, and whether they are bottlenecks -> timm's name."""

COUNTERS = "num_batches_tracked"
"""Of batch norms: not needed, and frozen ones have none."""


@dataclass(frozen=True)
class Import:
    """A network of another code, understood.

    Args:
        architecture: what it is there, in words.
        spec: what it is here.
        weights: its tensors under the names it has there, in the layout of here.
        name_there: the name there of a tensor here; ``None`` for one that the other code does not have.
        unused: tensors there that have no place here.
        notes: what was assumed, a line each.
    """

    architecture: str
    spec: ModelSpec
    weights: dict[str, Tensor]
    name_there: Callable[[str], str | None]
    unused: re.Pattern[str] = re.compile("(?!)")
    notes: list[str] = field(default_factory=list)


def renamed(rules: Sequence[tuple[str, str | None]]) -> Callable[[str], str | None]:
    """The function that renames by the first rule whose pattern is the whole name.

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
        InputError: one is missing, has another shape, or has no place.
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
        raise InputError(f"{what}: {len(missing)} of its {len(own)} tensors are not in the file, first {missing[0]!r}")
    names = set(there.values())
    unknown = [
        name
        for name in source.weights
        if name not in names and not name.endswith(COUNTERS) and not source.unused.fullmatch(name)
    ]
    if unknown:
        raise InputError(f"{what}: {len(unknown)} tensors of the file have no place in it, first {unknown[0]!r}")
    for name, tensor in taken.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{what}: {there[name]!r} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
            )
    net.load_state_dict(own | taken)


def resnet_name(weights: Mapping[str, Tensor], prefix: str) -> str:
    """timm's name of the ResNet whose tensors begin with ``prefix``.

    Raises:
        InputError: none that is known.

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
            f"its backbone is no ResNet that is known: expected stages of {', '.join(RESNETS.values())}, found "
            f"{'bottlenecks' if bottleneck else 'blocks'} {blocks}"
        )
    return resnet


def tensor(weights: Mapping[str, Tensor], name: str, architecture: str, axes: int = 4) -> Tensor:
    """The tensor of this name, a convolution's weight unless other axes are named.

    Raises:
        InputError: there is none, or it has another number of axes.
    """
    if name not in weights:
        raise InputError(f"does not fit {architecture}: {name!r} is not in it")
    if weights[name].ndim != axes:
        raise InputError(
            f"does not fit {architecture}: {name!r} has shape {tuple(weights[name].shape)}, expected {axes} axes"
        )
    return weights[name]


def tower_depth(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Convolutions of a tower: its tensors of four axes."""
    return sum(name.startswith(prefix) and value.ndim == 4 for name, value in weights.items())


def class_count(rows: int, num_anchors: int, architecture: str) -> int:
    """Classes that so many rows of the class convolution are for.

    Raises:
        InputError: they do not divide among the anchors.
    """
    if rows % num_anchors:
        raise InputError(
            f"does not fit {architecture}: {rows} class outputs, expected a multiple of {num_anchors} anchors"
        )
    return rows // num_anchors
