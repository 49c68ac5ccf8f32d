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


def test_equally_good_classifiers_seldom_differ_over_folds():
    """Two classifiers on 20 features each, equally informative: how often does an interval of 5 folds exclude 0?"""
    rng, folds, draws = np.random.default_rng(0), np.arange(200) % 5, 400
    found = {"ordinary": 0, "corrected": 0}
    for _ in range(draws):
        labels = rng.integers(0, 2, 200)
        features = rng.normal(size=(200, 40)) + 0.15 * labels[:, None]
        differences = []
        for fold in range(5):
            test, train = folds == fold, (folds != fold) & (folds != (fold + 1) % 5)
            means = [features[train & (labels == label)].mean(axis=0) for label in (0, 1)]
            squares = [(features[test] - mean) ** 2 for mean in means]
            near = [(squares[1] - squares[0])[:, half].sum(axis=1) < 0 for half in (slice(20), slice(20, 40))]
            right = [(each == labels[test]).mean() for each in near]
            differences.append(right[0] - right[1])
        for name, ratio in (("ordinary", 0.0), ("corrected", 1 / 3)):
            interval = paired_interval(differences, ratio)
            found[name] += not interval.low <= 0 <= interval.high
    assert found["corrected"] < 0.05 * draws < 0.07 * draws < found["ordinary"]


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
