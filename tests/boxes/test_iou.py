import pytest
import torch
from torchvision.ops import box_iou

from focaldet.boxes.formats import box_centers, clip_boxes
from focaldet.boxes.iou import box_area, paired_iou, pairwise_iou


def random_boxes(count, seed, dtype=torch.float32, side=400.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * side
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator, dtype=dtype) * side], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairwise_iou_is_torchvisions(dtype):
    boxes, other = random_boxes(60, 0, dtype), random_boxes(70, 1, dtype)
    expected = box_iou(boxes, other)
    assert (expected > 0).any()
    torch.testing.assert_close(pairwise_iou(boxes, other), expected)


def test_paired_iou_is_the_diagonal_of_pairwise():
    boxes, other = random_boxes(50, 2), random_boxes(50, 3)
    assert torch.equal(paired_iou(boxes, other), pairwise_iou(boxes, other).diagonal())


def test_iou_is_symmetric_and_one_with_itself():
    boxes, other = random_boxes(50, 4), random_boxes(50, 5)
    assert torch.equal(paired_iou(boxes, other), paired_iou(other, boxes))
    assert torch.equal(paired_iou(boxes, boxes), torch.ones(50))


def test_boxes_without_area_have_no_overlap_and_no_nan():
    point = torch.tensor([[5.0, 5, 5, 5]])
    line = torch.tensor([[0.0, 5, 9, 5]])
    inverted = torch.tensor([[9.0, 9, 1, 1]])
    full = torch.tensor([[0.0, 0, 10, 10]])
    for box in (point, line, inverted):
        assert float(box_area(box)) == 0
        for other in (point, line, inverted, full):
            assert float(paired_iou(box, other)) == 0


def test_touching_boxes_do_not_overlap():
    assert float(paired_iou(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[4.0, 0, 8, 4]]))) == 0


def test_no_boxes_give_empty_results():
    none = torch.zeros(0, 4)
    assert pairwise_iou(none, torch.zeros(3, 4)).shape == (0, 3)
    assert pairwise_iou(torch.zeros(3, 4), none).shape == (3, 0)
    assert paired_iou(none, none).shape == (0,)


def test_the_centre_is_half_a_side_from_the_corner():
    boxes = random_boxes(40, 6, torch.float64)
    torch.testing.assert_close(box_centers(boxes), boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) / 2)


def test_clip_puts_boxes_inside_and_leaves_those_that_are():
    boxes = random_boxes(100, 7) - 100
    clipped = clip_boxes(boxes, height=150, width=220)
    assert float(clipped.min()) == 0
    assert float(clipped[:, 0::2].max()) == 220
    assert float(clipped[:, 1::2].max()) == 150
    inside = (boxes >= 0).all(dim=1) & (boxes[:, 2] <= 220) & (boxes[:, 3] <= 150)
    assert inside.any()
    assert torch.equal(clipped[inside], boxes[inside])
