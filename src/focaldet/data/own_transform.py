"""The user's own transform: any callable in torchvision's v2 convention, read from a file or a module."""

import importlib
import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from focaldet.checks import InputError, WorkerError, kind_of, near_name, one_line
from focaldet.data.views import View, keep_visible
from focaldet.structures import IGNORED


class OwnTransformError(WorkerError):
    """The user's transform fails, or returns values of the wrong types."""


class OwnTransform:
    """Applies ``image, target = transform(image, target)`` to a photo and its boxes.

    The transform gets a ``tv_tensors.Image`` (3, H, W) of uint8 and a dictionary of ``"boxes"``, the
    ``tv_tensors.BoundingBoxes`` of objects and ignore regions, and ``"labels"``, their classes; an ignore region has
    the label ``IGNORED``. It returns the same types, with any image size. Boxes that it leaves out become background.

    Args:
        place: ``FILE.py:NAME`` or ``MODULE:NAME``.
        num_classes: number of classes of the data set.

    Raises:
        InputError: the file, module or name does not exist, fails to load, or cannot be called.
    """

    def __init__(self, place: str, num_classes: int) -> None:
        self.place, self.num_classes = place, num_classes
        self._transform: Callable[..., Any] | None = load_transform(place)

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "num_classes": self.num_classes, "_transform": None}  # each worker loads its own

    def __call__(self, view: View) -> View:
        """Transform a photo.

        Raises:
            OwnTransformError: the transform fails, or returns values of other types.
        """
        if self._transform is None:
            self._transform = load_transform(self.place)
        size = (view.image.shape[1], view.image.shape[2])
        target = {
            "boxes": tv_tensors.BoundingBoxes(view.boxes_xyxy.clone(), format="XYXY", canvas_size=size),
            "labels": torch.where(view.ignored, IGNORED, view.labels),
        }
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            seed = int(torch.randint(2**32, ()))  # for transforms that draw from the other two generators
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            made = self._transform(tv_tensors.Image(view.image.clone()), target)
        except Exception as error:
            raise OwnTransformError(
                f"--transform {self.place}: failed with {type(error).__name__}: {one_line(error)}"
            ) from error
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
        return self._checked(made)

    def _checked(self, made: Any) -> View:
        if not (isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[1], dict)):
            self._refuse("image, target", f"got {kind_of(made)}")
        image, target = made
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            self._refuse("an image (3, H, W) of uint8", _described(image))
        if min(image.shape) < 1:
            self._refuse("an image with pixels", _described(image))
        boxes, labels = target.get("boxes"), target.get("labels")
        # Indexing a tv_tensor gives a plain tensor: boxes[keep] is still accepted as boxes.
        if not isinstance(boxes, Tensor) or boxes.ndim != 2 or boxes.shape[1] != 4 or not bool(boxes.isfinite().all()):
            self._refuse('target["boxes"] (N, 4) of finite numbers', _described(boxes))
        if getattr(boxes, "format", tv_tensors.BoundingBoxFormat.XYXY) is not tv_tensors.BoundingBoxFormat.XYXY:
            self._refuse('target["boxes"] in XYXY', f"got {boxes.format.value}")  # type: ignore[attr-defined]
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != boxes.shape[:1]:
            self._refuse(f'target["labels"] ({len(boxes)},) of whole numbers, one per box', _described(labels))
        known = (labels == IGNORED) | ((labels >= 0) & (labels < self.num_classes))
        if not bool(known.all()):
            self._refuse(
                f"labels from 0 to {self.num_classes - 1}, or {IGNORED} for an ignore region",
                f"got {labels[~known][0].item()}",
            )
        ignored = labels == IGNORED
        plain = boxes.as_subclass(Tensor).float()
        labels = labels.long().clamp(min=0)
        return keep_visible(View(image.as_subclass(Tensor).contiguous(), plain, labels, ignored))

    def _refuse(self, expected: str, got: str) -> NoReturn:
        raise OwnTransformError(f"--transform {self.place}: expected it to return {expected}; {got}")


def load_transform(place: str) -> Callable[..., Any]:
    """Load ``FILE.py:NAME`` or ``MODULE:NAME``.

    Raises:
        InputError: the file, module or name does not exist, fails to load, or cannot be called.
    """
    source, colon, name = place.rpartition(":")
    if not colon or not source or not name:
        raise InputError(f"--transform {place}: expected FILE.py:NAME or MODULE:NAME")
    if source.endswith(".py") and not Path(source).is_file():
        raise InputError(f"--transform {place}: {source}: no such file")
    try:
        module = _from_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:
        raise InputError(
            f"--transform {place}: cannot be loaded ({type(error).__name__}: {one_line(error)})"
        ) from error
    if not hasattr(module, name):
        known = [known for known in vars(module) if not known.startswith("_")]
        raise InputError(f"--transform {place}: {source} has no {name!r}; {near_name(name, known)}")
    if not callable(transform := getattr(module, name)):
        raise InputError(f"--transform {place}: expected a function or a transform, got {kind_of(transform)}")
    return transform  # type: ignore[no-any-return]


def _from_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"got {kind_of(value)}"
    kind = type(value).__name__
    return f"got {kind} of shape {tuple(value.shape)}, {value.dtype}"
