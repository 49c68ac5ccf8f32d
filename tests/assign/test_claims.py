import itertools

import pytest
import torch

from focaldet.assign.claims import claim
from focaldet.structures import BACKGROUND

CLAIMS = [  # site, object, value
    (0, 1, 0.5),
    (0, 2, 0.7),
    (0, 3, 0.7),
    (2, 1, 0.0),
    (2, 4, 0.9),
    (2, 5, 0.2),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_highest_value_has_the_site_and_of_equals_the_first_object(order):
    matched, best = torch.full((4,), BACKGROUND), torch.full((4,), -1.0)
    site, gt, value = (torch.tensor(x) for x in zip(*[CLAIMS[i] for i in [*order, 3, 4, 5]], strict=True))
    claim(matched, best, site, gt, value)
    assert matched.tolist() == [2, -1, 4, -1]
    assert best[[0, 2]].tolist() == pytest.approx([0.7, 0.9])


@pytest.mark.parametrize("parts", [(6,), (1, 5), (2, 4), (5, 1), (1, 1, 1, 1, 1, 1)])
def test_claims_may_come_in_parts(parts):
    matched, best = torch.full((4,), BACKGROUND), torch.full((4,), -1.0)
    site, gt, value = (torch.tensor(x).split(parts) for x in zip(*CLAIMS, strict=True))
    for part in zip(site, gt, value, strict=True):
        claim(matched, best, *part)
    assert matched.tolist() == [2, -1, 4, -1]


def test_no_claim_changes_nothing():
    matched, best = torch.tensor([3, BACKGROUND]), torch.tensor([0.5, -1.0])
    none = torch.tensor([], dtype=torch.int64)
    claim(matched, best, none, none, torch.tensor([]))
    assert matched.tolist() == [3, BACKGROUND]
