import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_ind, ttest_rel

from focaldet.evaluation.statistics import paired_interval, rank_correlation, welch_interval


def test_welch_is_scipys():
    a, b = [0.41, 0.44, 0.39], [0.36, 0.37, 0.38, 0.35]
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    interval = welch_interval(a, b)
    assert interval.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_one_seed_has_no_interval():
    assert welch_interval([0.4], [0.3, 0.2]) is None


def test_seeds_that_agree_to_the_digit_differ_by_exactly_that():
    assert welch_interval([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25, 0.25)
    assert paired_interval([0.25, 0.25], 0.5) == (0.25, 0.25, 0.25)


def test_paired_differences_without_a_correction_are_scipys():
    a, b = [0.41, 0.44, 0.39, 0.52], [0.36, 0.37, 0.38, 0.45]
    expected = ttest_rel(a, b).confidence_interval(0.95)
    interval = paired_interval(np.subtract(a, b).tolist())
    assert interval.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_shared_training_photos_widen_the_interval():
    """Differences 1, 2, 3: s² = 1. Three folds, one trains: se² = 1/3 + 1, t = 4.303, so 2 ± 4.968."""
    interval = paired_interval([1.0, 2.0, 3.0], 1.0)
    assert interval == pytest.approx((2.0, -2.9683, 6.9683), abs=1e-4)
    assert paired_interval([1.0], 1.0) is None


def test_rank_correlation_sees_order_and_not_distance():
    assert rank_correlation([1, 2, 3, 4], [1, 10, 100, 1000]) == 1
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert rank_correlation([1, 2, 3], [1, 3, 2]) == 0.5  # 1 - 6 (0 + 1 + 1) / (3 (9 - 1))


def test_rank_correlation_of_too_little_is_none():
    assert rank_correlation([], []) is None
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([2, 2, 2], [1, 2, 3]) is None


def test_rank_correlation_with_ties_is_scipys():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 9, 200).astype(float)
    b = a + rng.normal(size=200) * 4
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)
