"""Repeat factors computed by hand, and the photos that a sampler draws with them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from focaldet.checks import InputError
from focaldet.data.batching import TrainingSampler
from focaldet.data.rare import checked_repeat, class_factors, drawn, photo_factors
from focaldet.data.records import ImageRecord


def photo(*labels: int, ignored: int = 0) -> ImageRecord:
    count = len(labels) + ignored
    return ImageRecord(
        path=Path("a.png"),
        file_name="a.png",
        image_id=0,
        width=8,
        height=8,
        boxes_xyxy=np.tile(np.array([0, 0, 4, 4], np.float32), (count, 1)),
        labels=np.array([*labels, *[2] * ignored], np.int64),
        ignored=np.array([False] * len(labels) + [True] * ignored, bool),
    )


RECORDS = [photo(0, 0), *[photo(0)] * 97, photo(0, 1), photo(), photo(1, 1, 1, 1, ignored=1)]
"""101 photos: class 0 in 99, class 1 in 2 (of 105 objects, 5), class 2 only ignored."""


def test_factors_by_hand():
    f0, f1 = 99 / 101, 2 / 101
    np.testing.assert_allclose(class_factors(RECORDS, 3, "0.5"), [1, (0.5 / f1) ** 0.5, 1])
    np.testing.assert_allclose(class_factors(RECORDS, 3, "auto"), [1, ((f0 + f1) / 2 / f1) ** 0.5, 1])
    i0, i1 = (f0 * 100 / 105) ** 0.5, (f1 * 5 / 105) ** 0.5
    np.testing.assert_allclose(class_factors(RECORDS, 3, "instance"), [1, ((i0 + i1) / 2 / i1) ** 0.5, 1])
    np.testing.assert_array_equal(class_factors(RECORDS, 3, "off"), np.ones(3))
    factors = photo_factors(RECORDS, 3, "0.5")
    assert Counter(np.round(factors, 3).tolist()) == {1.0: 99, round((0.5 / f1) ** 0.5, 3): 2}
    assert photo_factors(RECORDS, 3, "off") is None


@pytest.mark.parametrize("rule", ["on", "0", "1.5", "-1", "nan", ""])
def test_other_rules_are_refused(rule):
    with pytest.raises(InputError, match="repeat: expected off, auto, instance or a share"):
        checked_repeat(rule)


def test_photos_are_drawn_as_their_factors_say_and_never_further_off_than_one():
    factors = np.array([1.0] * 20 + [2.5, 7])
    expected = factors / factors.sum() * 22
    totals = np.zeros(22)
    for seed in range(400):
        counts = np.bincount(drawn(factors, np.random.default_rng(seed)), minlength=22)
        assert counts.sum() == 22
        assert (np.abs(counts - expected) < 1).all()
        totals += counts
    np.testing.assert_allclose(totals / 400, expected, atol=0.1)


def test_an_epoch_is_as_long_the_same_in_processes_together_and_the_same_again():
    factors = np.linspace(1, 6, 40)

    def entries(**options):
        sampler = TrainingSampler(40, seed=3, factors=factors, **options)
        sampler.set_epoch(2)
        return list(sampler)

    whole = entries(batch_size=8)
    assert len(whole) == 40
    assert entries(batch_size=8) == whole
    parts = [entries(batch_size=4, num_replicas=2, rank=rank) for rank in (0, 1)]
    assert [entry for pair in zip(*parts, strict=True) for entry in pair] == whole
    assert len({(draw.photo, draw.again) for draw in whole}) == 40  # a photo that is drawn again is augmented anew
    assert len({draw.photo for draw in whole}) < 40
    other = TrainingSampler(40, batch_size=8, seed=3, factors=factors)
    assert sorted(draw.photo for draw in other) != sorted(draw.photo for draw in whole)


def test_without_factors_the_order_is_that_of_before():
    expected = np.random.default_rng((0, 0)).permutation(9).tolist()
    assert [draw.photo for draw in TrainingSampler(9, batch_size=3, seed=0)] == expected
