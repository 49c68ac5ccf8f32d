"""The shapes and dtypes that annotations state are checked in each call that the tests make.

Only those: the other types are mypy's, and a check of them at each call costs time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, config, install_import_hook

MODULES = (
    "structures",
    "assign",
    "boxes",
    "functional.operators",
    "losses",
    "methods",
    "models",
    "data.batching",
    "data.images",
    "data.kept",
    "data.mixing",
    "data.pixels",
    "data.transforms",
    "data.windows",
    "data.views",
    "study.deviations",
    "study.imbalance",
    "study.ranking",
)
"""The modules of focaldet that state shapes, but for ``UNCHECKED``."""

UNCHECKED = ("study.scenes",)
"""``torch.no_grad`` does not see that a wrapped function is a generator, and leaves gradients on in it."""


def states_shape(annotation: Any) -> bool:
    """Whether there is a shape in it, as in ``list[Float[Tensor, "N 4"]] | None``."""
    is_shape = isinstance(annotation, type) and issubclass(annotation, AbstractArray)
    return is_shape or any(map(states_shape, get_args(annotation)))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which checks the shapes of what it takes and gives back.

    Not while torch traces it: a size that is looked at is no longer free in an exported network.
    """
    from torch.compiler import is_compiling  # here: the process that hands out the tests needs no torch

    annotations = {name: hint for name, hint in function.__annotations__.items() if states_shape(hint)}
    if not annotations:
        return function
    function.__annotations__ = annotations
    checked = beartype(function)

    @wraps(function)
    def unless_traced(*args: Any, **kwargs: Any) -> Any:
        return (function if is_compiling() else checked)(*args, **kwargs)

    return unless_traced


def check_shapes() -> None:
    """From here on. What has been imported before stays without."""
    install_import_hook([f"focaldet.{name}" for name in MODULES], "shapes.check")


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """For a test of what the library itself says to a wrong shape or dtype."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
