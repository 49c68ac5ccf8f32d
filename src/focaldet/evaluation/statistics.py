"""Rank correlation, and confidence intervals for a difference of means."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
"""How often an interval contains the true difference, if results are normally distributed."""


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation of ``(N,)`` and ``(N,)``; equal values share their mean rank.

    ``None`` if N < 3 or either is constant.

    >>> rank_correlation([1, 2, 3], [10, 90, 91]), rank_correlation([1, 2, 3], [5, 5, 5])
    (1.0, None)
    """
    ranks = []
    for values in (np.asarray(a, np.float64), np.asarray(b, np.float64)):
        if len(values) < 3 or not np.ptp(values):
            return None
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 6)


class Interval(NamedTuple):
    """A difference of means with its confidence bounds."""

    difference: float
    low: float
    high: float


def welch_interval(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """Mean of ``a`` minus mean of ``b``, with Welch's t interval; ``None`` with fewer than two values in either.

    Welch's test does not assume equal variances: without the prior, results vary more between seeds.

        se² = s_a²/n_a + s_b²/n_b      degrees of freedom: se⁴ / ( s_a⁴/(n_a² (n_a-1)) + s_b⁴/(n_b² (n_b-1)) )

    >>> welch_interval([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])  # se² = 2/3, 4 degrees of freedom, t = 2.776
    Interval(difference=2.0, low=-0.26..., high=4.26...)
    """
    from scipy.stats import t  # imported here: pages only need rank_correlation, which works without SciPy

    if len(a) < 2 or len(b) < 2:
        return None
    difference = float(np.mean(a) - np.mean(b))
    parts = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
    variance = sum(parts)
    if variance == 0:
        return Interval(difference, difference, difference)
    freedom = variance**2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * variance**0.5
    return Interval(difference, difference - reach, difference + reach)


def paired_interval(differences: Sequence[float], test_per_train: float = 0.0) -> Interval | None:
    """Mean of paired differences, with its corrected t interval; ``None`` with fewer than two.

    The trainings of a cross-validation share photos, so their results are correlated, and the interval of the ordinary
    paired t-test is too narrow. The corrected resampled t-test adds the ratio of test to training photos to its
    variance (Nadeau and Bengio, Inference for the Generalization Error, 2003).

        se² = (1/n + test_per_train) s²      degrees of freedom: n - 1

    Args:
        differences: one per fold.
        test_per_train: number of test photos per training photo; 0 gives the ordinary paired t-test.

    >>> paired_interval([1.0, 2.0, 3.0], 1)  # se² = 4/3, 2 degrees of freedom, t = 4.303
    Interval(difference=2.0, low=-2.96..., high=6.96...)
    """
    from scipy.stats import t

    if len(differences) < 2:
        return None
    count, difference = len(differences), float(np.mean(differences))
    error = ((1 / count + test_per_train) * float(np.var(differences, ddof=1))) ** 0.5
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return Interval(difference, difference - reach, difference + reach)
