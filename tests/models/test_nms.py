import pytest
import torch
from torchvision.ops import nms

from focaldet.models.nms import batched_nms


def scene(count, num_classes, seed, size=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = size * torch.rand(count, 2, generator=generator)
    sides = 0.3 * size * torch.rand(count, 2, generator=generator)
    scores = torch.randperm(count, generator=generator).float() / max(count, 1)
    return torch.cat([corner, corner + sides], 1), scores, torch.randint(num_classes, (count,), generator=generator)


def class_by_class(boxes, scores, labels, iou):
    kept = [
        rows[nms(boxes[rows], scores[rows], iou)] for c in labels.unique() for rows in [(labels == c).nonzero()[:, 0]]
    ]
    keep = torch.cat(kept) if kept else labels
    return keep[scores[keep].argsort(descending=True)]


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(("count", "num_classes"), [(0, 1), (1, 1), (300, 1), (300, 7), (1500, 80)])
def test_the_boxes_are_torchvisions_class_by_class(count, num_classes, iou):
    boxes, scores, labels = scene(count, num_classes, seed=count)
    keep = batched_nms(boxes, scores, labels, iou, count)
    assert torch.equal(keep, class_by_class(boxes, scores, labels, iou))
    assert torch.equal(batched_nms(boxes, scores, labels, iou, 10), keep[:10])


@pytest.mark.parametrize("iou", [0.5, 1 / 3, 0.1])
def test_an_overlap_of_just_the_limit_is_none(iou):
    # Boxes of whole pixels whose overlaps are exactly 1/2, 1/3 and 1/10, or the floats next to them.
    a = torch.tensor([[0.0, 0, 10, 10]])
    others = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 20], [5, 0, 15, 10], [0, 0, 10, 1], [0, 0, 10, 100]])
    for other in others:
        boxes, scores, labels = torch.cat([a, other[None]]), torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
        assert torch.equal(batched_nms(boxes, scores, labels, iou, 2), nms(boxes, scores, iou))


def test_of_equal_scores_the_first_is_the_better():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    keep = batched_nms(boxes, torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64), 0.5, 3)
    assert keep.tolist() == [0, 2]


def test_boxes_of_no_area_and_infinite_ones_are_torchvisions():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, float("inf"), 10], [0, 0, float("inf"), 10]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.int64)
    assert torch.equal(batched_nms(boxes, scores, labels, 0.5, 4), nms(boxes, scores, 0.5))


def test_other_dtypes_are_taken():
    boxes, scores, labels = scene(50, 3, seed=0)
    keep = batched_nms(boxes.double(), scores.double(), labels, 0.5, 50)
    assert torch.equal(keep, batched_nms(boxes, scores, labels, 0.5, 50))


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("spread", [0.2, 1.0, 2.0])  # from boxes of one size to those that cover all the others
def test_in_a_crowd_that_is_looked_up_by_place_the_boxes_are_torchvisions(iou, spread):
    generator = torch.Generator().manual_seed(int(10 * spread))
    corner = 3000 * torch.rand(4000, 2, generator=generator) - 500  # some left of and above the photo
    sides = 15 * (spread * torch.randn(4000, 2, generator=generator)).exp()
    boxes = torch.cat([corner, corner + sides], 1)
    boxes[7] = torch.tensor([0.0, 0, float("inf"), 10])
    scores = torch.randperm(4000, generator=generator).float() / 4000
    labels = torch.randint(2, (4000,), generator=generator)
    keep = batched_nms(boxes, scores, labels, iou, 4000)
    assert torch.equal(keep, class_by_class(boxes, scores, labels, iou))
    assert len(keep) > 600
