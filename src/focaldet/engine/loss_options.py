"""Loss options: names of losses, and ``--alpha``, the weight α of the focal loss, one for all classes or one per class.

With ``inverse``, the odds α / (1 - α) of a class are 1/3 (as for α = .25), times the geometric mean of the objects per
class, divided by the number of its own objects. A class with a tenth of another's objects has ten times its odds.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from focaldet.checks import InputError, near_name
from focaldet.data.rare import count_objects
from focaldet.data.records import ImageRecord

ClassLossName = Literal[
    "default", "bce", "focal", "quality_focal", "varifocal", "mal", "ia_bce", "equalized_focal", "equalized_quality"
]
BoxLossName = Literal["default", "smooth_l1", "iou", "giou", "diou", "ciou", "eiou", "siou", "log_iou"]

USUAL = 0.25
"""α of classes that are not named."""

INVERSE = "inverse"


def checked_alpha(value: float | str | None, class_loss: str) -> float | str | None:
    """Check an α of a configuration: a number in [0, 1], ``None``, ``inverse``, or ``NAME=A,NAME=A``.

    Raises:
        InputError: the value is of another form, or has weights by class for a loss without them.

    >>> checked_alpha(".5", "focal"), checked_alpha("cat=.5,dog=.1", "focal")
    (0.5, 'cat=.5,dog=.1')
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            if class_loss not in ("default", "focal"):
                raise InputError(f"alpha: only the focal loss has weights by class, not {class_loss}") from None
            if value != INVERSE:
                _by_name(str(value))
            return value
    if value is not None and not 0 <= value <= 1:
        raise InputError(f"alpha: expected a number in [0, 1], got {value:g}")
    return value


def _by_name(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        name, sign, number = part.strip().rpartition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            sign = ""
        if not sign or not name or not 0 <= found[name.strip()] <= 1:
            raise InputError(f"alpha: expected a number in [0, 1], inverse or NAME=A,…, got {text!r}")
    return found


def alpha_by_class(value: float | str | None, class_names: Sequence[str]) -> float | tuple[float, ...] | None:
    """α in the method's form; ``inverse`` must be written out first, see `write_out`.

    Raises:
        InputError: a name is not a class, or ``inverse``.

    >>> alpha_by_class("dog=.1", ["cat", "dog"])
    (0.25, 0.1)
    """
    if not isinstance(value, str):
        return value
    if value == INVERSE:
        raise InputError(
            "alpha: inverse counts objects of training photos, but there are none here; give numbers by class"
        )
    numbers = _by_name(value)
    for name in numbers:
        if name not in class_names:
            raise InputError(f"alpha: unknown class {name!r}; {near_name(name, class_names)}")
    return tuple(numbers.get(name, USUAL) for name in class_names)


def write_out(records: Sequence[ImageRecord], class_names: Sequence[str]) -> str:
    """``inverse`` as one number per class, computed from the objects of the training photos.

    >>> from types import SimpleNamespace
    >>> labels = np.array([0] * 8 + [1] * 2)
    >>> write_out([SimpleNamespace(labels=labels, ignored=labels > 1)], ["cat", "dog"])
    'cat=0.1429,dog=0.4'
    """
    counts = np.maximum(count_objects(records, len(class_names)), 1)
    odds = USUAL / (1 - USUAL) * np.exp(np.log(counts).mean()) / counts
    return ",".join(f"{name}={share:.4g}" for name, share in zip(class_names, odds / (1 + odds), strict=True))


def as_text(alpha: float | Sequence[float] | None, class_names: Sequence[str]) -> float | str | None:
    """A method's α in the form of a configuration."""
    if alpha is None or isinstance(alpha, float | int):
        return alpha
    return ",".join(f"{name}={value:.4g}" for name, value in zip(class_names, alpha, strict=True))
