import math

import numpy as np
import pytest
from scipy.stats import binomtest

from focaldet.evaluation.scored import Scored
from focaldet.evaluation.thresholds import (
    MIN_FOUND,
    best_f1,
    class_thresholds,
    curves,
    design_effect,
    fewest,
    promised_precision,
    promised_recall,
    promises,
)

DRAWS = 1000
ALLOWED = 0.1 + 3 * math.sqrt(0.1 * 0.9 / DRAWS)
"""Share of broken promises that 1,000 draws may show if 10 % are broken in truth."""


def scored(scores, right, photo=None, objects=None) -> Scored:
    """Detections; objects that they do not match are missed."""
    scores, right = np.asarray(scores, float), np.asarray(right, bool)
    photo = np.arange(len(scores)) if photo is None else np.asarray(photo)
    missed = 0 if objects is None else objects - int(right.sum())
    object_scores = np.concatenate([scores[right], np.full(missed, -1.0)])
    object_photo = np.concatenate([photo[right], np.arange(missed)])
    return Scored(scores, right, right * 0.8, photo, object_scores, object_photo)


def at(promised, one, percent):
    """Threshold, and how many more objects, of one percentage."""
    promise = promised(one, [percent])
    return promise.thresholds[0], promise.more_objects[0]


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (1, 1), (45, 45), (95, 100), (998, 1000), (50, 100)])
def test_bound_is_that_of_clopper_and_pearson(hits, count):
    low = binomtest(hits, count, alternative="greater").proportion_ci(0.9, method="exact").low
    assert not promises(hits, count, low + 1e-9)
    assert low == 0 or promises(hits, count, low - 1e-9)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 0.97])
@pytest.mark.parametrize("misses", [0, 2])
def test_fewest_is_enough_and_one_less_is_not(share, misses):
    count = fewest(share, misses)
    assert promises(count - misses, count, share)
    assert not promises(count - 1 - misses, count - 1, share)


def test_design_effect_of_independent_draws_is_one_and_of_copies_their_number():
    rng = np.random.default_rng(0)
    hits = rng.binomial(5, 0.8, 4000)
    assert design_effect(hits, np.full(4000, 5)) == pytest.approx(1, abs=0.08)
    copies = 5 * rng.binomial(1, 0.8, 4000)
    assert design_effect(copies, np.full(4000, 5)) == pytest.approx(5, abs=0.3)
    assert design_effect([3, 3], [3, 3]) == 1
    assert design_effect([1], [3]) == 1


def test_best_f1_is_that_of_trying_every_threshold():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.integers(1, 20, 40) / 20  # with ties
        one = scored(scores, rng.uniform(size=40) < scores, objects=45)
        if not one.right.any():
            continue

        def f1(threshold, one=one):
            kept = one.scores >= threshold
            return 2 * one.right[kept].sum() / (kept.sum() + 45)

        assert f1(best_f1(one)) == max(f1(t) for t in scores)


def test_class_with_few_found_objects_takes_the_threshold_of_all():
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.02, 1, 400)
    many = scored(scores, rng.uniform(size=400) < scores)
    few = scored([0.9] * (MIN_FOUND - 1), [True] * (MIN_FOUND - 1))
    enough = scored([0.9] * MIN_FOUND, [True] * MIN_FOUND)
    first, second, third = class_thresholds([many, few, enough])
    assert [first.pooled, second.pooled, third.pooled] == [False, True, False]
    assert second.best_f1 not in (0.9, first.best_f1) or second.best_f1 == first.best_f1
    assert third.best_f1 == 0.9


def test_nothing_found_is_no_fault():
    (chosen,) = class_thresholds([scored([], [])])
    assert set(chosen.precision.thresholds) | set(chosen.recall.thresholds) == {None}
    (chosen,) = class_thresholds([scored([0.5, 0.4], [False, False], objects=7)])
    assert chosen.objects == 7
    assert set(chosen.recall.more_objects) == {None}


def chance(scores):
    return 1 - (1 - scores) ** 3


def true_precision(threshold):
    """Mean of ``chance`` over scores that are uniform in [threshold, 1]."""
    return 1 - (1 - threshold) ** 3 / 4


@pytest.mark.parametrize(
    ("count", "percent", "least_kept"),
    [
        (200, 80, 0.6),
        pytest.param(1000, 90, 0.9, marks=pytest.mark.slow),
        pytest.param(2000, 95, 0.9, marks=pytest.mark.slow),
    ],
)
def test_promised_precision_is_kept_in_nine_of_ten_data_sets(count, percent, least_kept):
    broken = promised = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        scores = rng.uniform(size=count)
        one = scored(scores, rng.uniform(size=count) < chance(scores), np.arange(count) // 10)
        threshold, _ = at(promised_precision, one, percent)
        if threshold is not None:
            promised += 1
            broken += true_precision(threshold) < percent / 100
    assert broken <= ALLOWED * DRAWS
    assert promised >= least_kept * DRAWS


@pytest.mark.slow
def test_promised_precision_is_kept_where_a_photo_is_good_or_bad_as_a_whole():
    """Ten detections of a photo are all right or all wrong, with a chance that all photos share."""
    broken = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        photo = np.repeat(np.arange(80), 10)
        right = (rng.uniform(size=80) < 0.88)[photo]
        threshold, _ = at(promised_precision, scored(rng.uniform(size=800), right, photo), 90)
        broken += threshold is not None
    assert broken <= ALLOWED * DRAWS


@pytest.mark.slow
def test_promised_recall_is_kept_in_nine_of_ten_data_sets():
    """Of the objects, 97 % are found with a uniform score: recall is 0.97 (1 - threshold)."""
    broken = promised = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        scores = np.where(rng.uniform(size=300) < 0.97, rng.uniform(size=300), -1.0)
        found = scores >= 0
        one = scored(scores[found], found[found], objects=300)
        threshold, _ = at(promised_recall, one, 80)
        promised += threshold is not None
        broken += threshold is not None and 0.97 * (1 - threshold) < 0.8
    assert broken <= ALLOWED * DRAWS
    assert promised == DRAWS


def test_promised_thresholds_rise_with_the_precision_and_fall_with_the_recall():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=3000)
    one = scored(scores, rng.uniform(size=3000) < chance(scores), objects=2500)
    precision = [t for t in promised_precision(one).thresholds if t is not None]
    recall = [t for t in promised_recall(one).thresholds if t is not None]
    assert len(precision) > 40
    assert len(recall) > 20
    assert (np.diff(precision) >= 0).all()
    assert (np.diff(recall) <= 0).all()


def test_too_few_objects_say_how_many_more_it_takes():
    """20 of 20 right promise 0.1 ** (1 / 20) = 89 %; 95 % takes 45."""
    one = scored(np.linspace(0.5, 0.9, 20), [True] * 20)
    threshold, more = at(promised_precision, one, 89)
    assert threshold is not None
    assert more is None
    threshold, more = at(promised_precision, one, 95)
    assert threshold is None
    assert more == 25
    threshold, more = at(promised_recall, one, 95)
    assert (threshold, more) == (None, 25)


def test_where_the_detector_is_not_good_enough_no_number_of_objects_helps():
    one = scored(np.linspace(0.1, 0.9, 200), np.arange(200) % 2 == 0, objects=200)
    assert at(promised_precision, one, 95) == (None, None)
    assert at(promised_recall, one, 95) == (None, None)
    assert at(promised_recall, one, 90) == (None, None)


def test_the_number_of_objects_that_is_asked_for_is_enough():
    rng = np.random.default_rng(3)
    scores = rng.uniform(size=60)
    one = scored(scores, rng.uniform(size=60) < 0.93)
    threshold, more = at(promised_precision, one, 85)
    assert threshold is None
    assert more < 300
    scores = rng.uniform(size=60 + 2 * more)
    again = scored(scores, rng.uniform(size=len(scores)) < 0.93)
    assert at(promised_precision, again, 85)[0] is not None


def test_equal_scores_are_let_through_together():
    one = scored([0.8] * 100, [True] * 95 + [False] * 5)
    threshold, _ = at(promised_precision, one, 90)
    assert threshold == 0.8
    assert at(promised_precision, one, 95)[0] is None


def test_curves_are_those_of_counting():
    one = scored([0.95, 0.75, 0.5, 0.25], [True, False, True, False], objects=4)
    drawn = curves(one)
    index = drawn["threshold"].index(0.3)
    assert drawn["precision"][index] == pytest.approx(2 / 3, abs=1e-4)
    assert drawn["recall"][index] == 0.5
    assert drawn["f1"][index] == pytest.approx(4 / 7, abs=1e-4)
    assert drawn["threshold"][-1] == 0.95
