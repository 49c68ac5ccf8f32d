"""Thresholds of the score: the best F1, and promises of precision and recall with a confidence bound.

A promise holds with 90 % confidence: the lower Clopper-Pearson bound of the precision (recall) reaches the value,

    bound(k of n) = the p with  P(Binomial(n, p) >= k) = 10 %  =  Beta^-1(10 %; k, n - k + 1).

Two effects would make the bound too optimistic. Detections of one photo are not independent, so k and n are first
divided by the design effect, the variance between photos relative to a binomial one (Korn and Graubard 1998). And the
best of many thresholds may just be lucky. So thresholds are tried one by one in a fixed order, the safest first, and
the first failure ends the search: then the chance of a wrong promise stays 10 %, however many are tried (Angelopoulos
et al., "Learn then Test", 2021). Searches from several starts share the 10 %.

Axes: N detections, S thresholds to try, best score first.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from focaldet.evaluation.matching import Floats, Ints
from focaldet.evaluation.scored import Bools, Scored, pooled
from focaldet.records.calibration import PERCENTS, ClassThresholds, Promise

CONFIDENCE = 0.9
"""Probability that a promise holds, over repeated collections of photos."""

MIN_FOUND = 10
"""Smallest number of found objects for a class to have its own best-F1 threshold instead of the common one."""

NO_THRESHOLD = 0.5
"""Best-F1 threshold if nothing is found."""

_STEP = 1.1  # for a precision, each threshold lets through this many times as many detections as the one before
_MIN_MORE = 0.1  # smallest increase suggested, as a share of the objects: a bound that just fails may fail again
_MAX_TIMES = 100  # largest increase suggested: beyond it, the share hardly exceeds the promised value
_ALLOWED = 2  # wrong detections that the first search allows: with none, a single early mistake would end it


def promises(hits: ArrayLike, count: ArrayLike, share: float, confidence: float = CONFIDENCE) -> Bools:
    """Whether the lower Clopper-Pearson bound of hits / count reaches a share. Neither needs to be a whole number.

    >>> promises([21, 22], [21, 22], 0.9)  # 0.9 ** 22 = 0.098 is a chance below 10 %
    array([False,  True])
    """
    from scipy.special import betainc  # imported here: exported models run without SciPy

    hits, count = np.asarray(hits, np.float64), np.asarray(count, np.float64)
    some = hits > 0
    chance = betainc(np.where(some, hits, 1.0), np.maximum(count - hits, 0.0) + 1, share)  # P(Binomial >= hits)
    enough: Bools = some & (chance <= 1 - confidence)
    return enough


def design_effect(hits: ArrayLike, counts: ArrayLike) -> float:
    """Variance of a share over photos relative to independent draws; at least 1, and 1 with one draw per photo.

    Args:
        hits, counts: ``(photos,)`` hits and draws of each photo.

    >>> round(design_effect([4, 0] * 50, [4] * 100), 1)  # all four of a photo, or none
    4.0
    """
    hits, counts = np.asarray(hits, np.float64), np.asarray(counts, np.float64)
    hits, counts = hits[counts > 0], counts[counts > 0]
    total = float(counts.sum())
    share = float(hits.sum()) / max(total, 1.0)
    if len(counts) < 2 or share in (0.0, 1.0):
        return 1.0
    between = float(((hits - share * counts) ** 2).sum())
    return max(1.0, between / (total * share * (1 - share)))


def class_thresholds(classes: Sequence[Scored]) -> list[ClassThresholds]:
    """Thresholds of all classes."""
    shared = best_f1(pooled(classes))
    chosen = []
    for one in classes:
        too_few = int((one.object_scores >= 0).sum()) < MIN_FOUND
        chosen.append(
            ClassThresholds(
                objects=len(one.object_scores),
                pooled=too_few,
                best_f1=shared if too_few else best_f1(one),
                precision=promised_precision(one),
                recall=promised_recall(one),
            )
        )
    return chosen


def best_f1(one: Scored) -> float:
    """The score with the best F1 = 2 right / (detections + objects)."""
    order = np.argsort(-one.scores, kind="stable")
    found = np.cumsum(one.right[order])
    if not one.right.any():
        return NO_THRESHOLD
    scores = one.scores[order]
    last = np.append(np.diff(scores) != 0, True)  # equal scores all pass
    f1 = 2 * found / (np.arange(1, len(order) + 1) + len(one.object_scores))
    return float(scores[int(np.where(last, f1, -1.0).argmax())])


def curves(one: Scored, points: int = 100) -> dict[str, list[float]]:
    """Precision, recall and F1 at evenly spaced thresholds that let through at least one detection."""
    thresholds = np.arange(points) / points
    thresholds = thresholds[thresholds <= one.scores.max(initial=0.0)]
    sorted_scores, sorted_right = np.sort(one.scores), np.sort(one.scores[one.right])
    detections = len(sorted_scores) - np.searchsorted(sorted_scores, thresholds)
    right = len(sorted_right) - np.searchsorted(sorted_right, thresholds)
    objects = len(one.object_scores)
    return {
        "threshold": [round(float(v), 4) for v in thresholds],
        "precision": [round(float(v), 4) for v in right / np.maximum(detections, 1)],
        "recall": [round(float(v), 4) for v in right / max(objects, 1)],
        "f1": [round(float(v), 4) for v in 2 * right / np.maximum(detections + objects, 1)],
    }


def promised_precision(one: Scored, percents: Sequence[int] = PERCENTS) -> Promise:
    """The lowest threshold for each precision that the detections can promise."""
    order = np.argsort(-one.scores, kind="stable")
    scores, right, photo = one.scores[order], one.right[order], one.photo[order]
    ends = _prefixes(scores)
    hits = np.array([float(right[:end].sum()) for end in ends])
    effect = np.array([_effect(right[:end], photo[:end]) for end in ends])
    counts = ends.astype(np.float64)
    thresholds: list[float | None] = []
    more: list[int | None] = []
    objects = len(one.object_scores)
    for percent in percents:
        least = percent / 100
        starts, confidence = _starts(least, objects)
        enough = promises(hits / effect, counts / effect, least, confidence)
        ways = [_passed(enough, np.flatnonzero(ends >= start)) for start in starts]
        passed = max((way for way in ways if way is not None), default=None)
        thresholds.append(None if passed is None else float(scores[ends[passed] - 1]))
        more.append(None if passed is not None else _more(hits, counts, effect, least, objects, confidence))
    return Promise(tuple(thresholds), tuple(more))


def _starts(least: float, objects: int) -> tuple[list[int], float]:
    """Numbers of best detections at which the searches for a precision begin, and the confidence of each search.

    Near the best detections, a few early mistakes end a search. So a class with many objects has two more searches,
    which start with a quarter and with half as many detections as objects. They share the chance of a wrong promise.
    """
    first = max(fewest(least, 0), min(fewest(least, _ALLOWED), math.ceil(objects / 2)))
    more = [start for start in (objects // 4, objects // 2) if start >= 2 * first]
    confidence = 1 - (1 - CONFIDENCE) / (1 + len(more))
    return [max(start, fewest(least, 0, confidence)) for start in (first, *more)], confidence


def promised_recall(one: Scored, percents: Sequence[int] = PERCENTS) -> Promise:
    """The highest threshold for each recall that the objects can promise."""
    count = len(one.object_scores)
    found = np.sort(one.object_scores[one.object_scores >= 0])
    if not len(found):
        return Promise((None,) * len(percents), (None,) * len(percents))
    tried = np.unique(found[np.unique(np.linspace(0, len(found) - 1, 100).astype(np.int64))])
    hits = np.array([float((one.object_scores >= score).sum()) for score in tried])
    effect = np.array([_effect(one.object_scores >= score, one.object_photo) for score in tried])
    thresholds: list[float | None] = []
    more: list[int | None] = []
    for percent in percents:
        least = percent / 100
        passed = _passed(promises(hits / effect, count / effect, least), np.arange(len(tried)))
        thresholds.append(None if passed is None else float(tried[passed]))
        # The lowest threshold finds the most objects.
        more.append(None if passed is not None else _more(hits[:1], np.array([count], float), effect[:1], least, count))
    return Promise(tuple(thresholds), tuple(more))


@cache
def fewest(share: float, misses: int, confidence: float = CONFIDENCE) -> int:
    """The smallest count at which this many misses still promise a share.

    >>> fewest(0.9, 0), fewest(0.95, 0), fewest(0.95, 2)
    (22, 45, 105)
    """
    count = misses + 1
    while not promises(count - misses, count, share, confidence):
        count += max(1, count // 200)
    return count


def _prefixes(scores: Floats) -> Ints:
    """Numbers of best detections to try, each a tenth larger than the one before; equal scores stay together."""
    total = len(scores)
    ends = [0]
    while ends[-1] < total:
        end = min(max(ends[-1] + 1, math.ceil(ends[-1] * _STEP)), total)
        ends.append(int(np.searchsorted(-scores, -scores[end - 1], side="right")))
    return np.array(ends[1:], np.int64)


def _effect(hit: Bools, photo: Ints) -> float:
    return design_effect(np.bincount(photo, hit), np.bincount(photo))


def _passed(enough: Bools, order: Ints) -> int | None:
    """The last index before the first threshold, in this order, that does not promise enough."""
    failed = np.flatnonzero(~enough[order])
    tried = order if not len(failed) else order[: failed[0]]
    return int(tried[-1]) if len(tried) else None


def _more(
    hits: Floats, counts: Floats, effect: Floats, least: float, objects: int, confidence: float = CONFIDENCE
) -> int | None:
    """Approximate number of further objects that would promise a share at equal hit rates; ``None``: no number can."""
    useful = (hits > least * counts) & (counts >= 10)
    if not useful.any() or not objects:
        return None
    factor = float(_times((hits / effect)[useful], (counts / effect)[useful], least, confidence).min())
    if factor > _MAX_TIMES:
        return None
    more = max(_MIN_MORE, factor - 1) * objects
    digits = max(0, len(str(math.ceil(more))) - 2)  # two digits are enough for "about"
    unit = int(10**digits)
    return math.ceil(more / unit) * unit


def _times(hits: Floats, counts: Floats, least: float, confidence: float) -> Floats:
    """Factor on the amount of data needed to promise a share at the same hit rates."""
    low, high = np.ones_like(hits), np.full_like(hits, 2.0)
    for _ in range(20):
        short = ~promises(hits * high, counts * high, least, confidence)
        low = np.where(short, high, low)
        if not short.any():
            break
        high = np.where(short, 2 * high, high)
    for _ in range(10):
        middle = (low + high) / 2
        short = ~promises(hits * middle, counts * middle, least, confidence)
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return high
