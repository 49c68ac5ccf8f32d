"""Check the shapes and dtypes in annotations at every call during the tests.

Other types are left to mypy, since checking them at every call costs time.
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
"""The modules of focaldet with shape annotations, except ``UNCHECKED``."""

UNCHECKED = ("study.scenes",)
"""``torch.no_grad`` does not see that a wrapped function is a generator, and leaves gradients on in it."""


def states_shape(annotation: Any) -> bool:
    """Whether an annotation contains a shape, as in ``list[Float[Tensor, "N 4"]] | None``."""
    is_shape = isinstance(annotation, type) and issubclass(annotation, AbstractArray)
    return is_shape or any(map(states_shape, get_args(annotation)))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a check of the shapes of its arguments and results.

    It does not check while torch traces it: reading a size would fix it in the exported network.
    """
    from torch.compiler import is_compiling  # imported here: the process that distributes the tests needs no torch

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
    """Check modules imported from now on; earlier imports stay unchecked."""
    install_import_hook([f"focaldet.{name}" for name in MODULES], "shapes.check")


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Disable the checks, for tests of the library's own errors about shapes and dtypes."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
