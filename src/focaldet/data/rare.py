"""Draw photos with rare classes more often in training.

Repeat factors (Gupta et al., LVIS, CVPR 2019, arXiv 1908.03195) of a class with share f of the photos, and of a photo:

    r_class = max(1, sqrt(T / f)),   r_photo = the largest of its classes

The instance-aware form (arXiv 2305.08069) has for f the geometric mean of the class's share of the photos and its share
of the objects. Axes: N photos, C classes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from focaldet.checks import InputError
from focaldet.data.records import ImageRecord

if TYPE_CHECKING:
    from numpy.random import Generator  # the command line imports this module, and loading it takes 8 ms

WORDS = ("off", "auto", "instance")


def checked_repeat(rule: str) -> str:
    """The rule of a configuration.

    Raises:
        InputError: neither a known word nor a share in (0, 1].
    """
    if rule in WORDS:
        return rule
    try:
        share = float(rule)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise InputError(f"repeat: expected {', '.join(WORDS)} or a share of the photos in (0, 1], got {rule!r}")
    return rule


def count_objects(records: Sequence[ImageRecord], num_classes: int) -> NDArray[np.int64]:
    """Objects of each class, ``(C,)``."""
    labels = [record.labels[~record.ignored] for record in records]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=num_classes).astype(np.int64)


def class_factors(records: Sequence[ImageRecord], num_classes: int, rule: str) -> NDArray[np.float64]:
    """The repeat factor ``(C,)`` of each class, 1 for a class without objects.

    Args:
        rule: ``"auto"``: T is the median share of the classes that occur, so that the rarer half is drawn more often;
            ``"instance"``: the same with instance-aware shares; a number: T; ``"off"``: all factors are 1.
    """
    if rule == "off":
        return np.ones(num_classes)
    photos = np.zeros(num_classes)
    for record in records:
        photos[np.unique(record.labels[~record.ignored])] += 1
    share = photos / max(len(records), 1)
    if rule == "instance":
        objects = count_objects(records, num_classes)
        share = np.sqrt(share * objects / max(int(objects.sum()), 1))
    there = share > 0
    threshold = float(np.median(share[there])) if rule in WORDS and there.any() else 0.0
    if rule not in WORDS:
        threshold = float(rule)
    return np.where(there, np.maximum(1, np.sqrt(threshold / np.where(there, share, 1))), 1.0)


def photo_factors(records: Sequence[ImageRecord], num_classes: int, rule: str) -> NDArray[np.float64] | None:
    """The repeat factor ``(N,)`` of each photo; ``None`` if all are equal."""
    factors = class_factors(records, num_classes, rule)
    found = np.array([factors[record.labels[~record.ignored]].max(initial=1.0) for record in records])
    return None if len(found) == 0 or bool((found == found[0]).all()) else found


def drawn(factors: NDArray[np.float64], rng: "Generator") -> NDArray[np.int64]:
    """Photos of an epoch, as many as in the data set, each as often as its factor says, randomly rounded up or down and
    never further off (systematic sampling).

    >>> drawn(np.array([1.0, 1.0, 2.0, 4.0]), np.random.default_rng(0)).tolist()
    [1, 2, 3, 3]
    """
    count = len(factors)
    order = rng.permutation(count)
    edges = np.cumsum(factors[order])
    edges = edges / edges[-1] * count + rng.random()
    places = np.floor(np.concatenate([[edges[-1] - count], edges])).astype(np.int64)
    places[-1] = places[0] + count
    return np.sort(np.repeat(order, np.diff(places)))
