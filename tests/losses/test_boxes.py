"""The IoU losses of boxes against torchvision and against the formulas of the papers, pair by pair."""

import math
from itertools import product

import pytest
import torch
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss

import focaldet
from focaldet import kernels

needs_cpu_kernels = pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="no C++ kernels")

NAMES = ("iou", "giou", "diou", "ciou", "eiou", "siou")


def pairs(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    boxes, others = (50 * torch.rand(count, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    for x in (boxes, others):
        x[:, 2:] = x[:, :2] + 30 * torch.rand(count, 2, generator=generator, dtype=torch.float64) + 1
    return boxes, others


def plain(name: str, box: list[float], other: list[float]) -> float:
    """The papers' formulas with Python's numbers."""
    (x1, y1, x2, y2), (s1, t1, s2, t2) = box, other
    w, h, v, g = x2 - x1, y2 - y1, s2 - s1, t2 - t1
    overlap = max(0.0, min(x2, s2) - max(x1, s1)) * max(0.0, min(y2, t2) - max(y1, t1))
    iou = overlap / (w * h + v * g - overlap)
    hull_w, hull_h = max(x2, s2) - min(x1, s1), max(y2, t2) - min(y1, t1)
    x, y = (x1 + x2 - s1 - s2) / 2, (y1 + y2 - t1 - t2) / 2
    if name == "eiou":
        return 1 - iou + (x * x + y * y) / (hull_w**2 + hull_h**2) + ((w - v) / hull_w) ** 2 + ((h - g) / hull_h) ** 2
    assert name == "siou"
    angle = math.asin(min(abs(x), abs(y)) / math.hypot(x, y))
    gamma = 2 - (1 - 2 * math.sin(angle - math.pi / 4) ** 2)  # paper: Λ = 1 - 2 sin²(angle - π/4)
    distance = sum(1 - math.exp(-gamma * part**2) for part in (x / hull_w, y / hull_h))
    shape = sum((1 - math.exp(-abs(a - b) / max(a, b))) ** 4 for a, b in ((w, v), (h, g)))
    return 1 - iou + (distance + shape) / 2


@pytest.mark.parametrize("name", ["eiou", "siou"])
def test_eiou_and_siou_are_those_of_their_papers(name):
    boxes, others = pairs()
    expected = [plain(name, a, b) for a, b in zip(boxes.tolist(), others.tolist(), strict=True)]
    found = getattr(focaldet, f"{name}_loss")(boxes, others)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(focaldet.diou_loss, distance_box_iou_loss), (focaldet.ciou_loss, complete_box_iou_loss)],
)
def test_diou_and_ciou_are_torchvisions_with_their_gradients(ours, theirs):
    boxes, others = pairs()
    results = []
    for loss in (ours, theirs):
        leaf = boxes.clone().requires_grad_()
        value = loss(leaf, others)
        results.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("impl", ["reference", pytest.param("fused", marks=needs_cpu_kernels)])
@pytest.mark.parametrize("name", NAMES)
def test_equal_boxes_lose_nothing_and_boxes_without_area_have_finite_gradients(name, impl):
    loss = getattr(focaldet, f"{name}_loss")
    boxes = pairs()[0].float()
    assert float(loss(boxes, boxes, impl=impl).abs().max()) < 1e-6
    points = [[1.0, 2, 1, 2], [0, 0, 5, 0], [0, 0, 0, 5]]
    rows = torch.tensor([*product(points, points)])
    leaf = rows[:, 0].clone().requires_grad_()
    value = loss(leaf, rows[:, 1], impl=impl)
    value.sum().backward()
    assert bool(value.isfinite().all())
    assert bool(leaf.grad.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_brings_boxes_that_touch_together(name):
    loss = getattr(focaldet, f"{name}_loss")
    target = torch.tensor([[10.0, 20, 50, 80]], dtype=torch.float64)
    box = (target + torch.tensor([[9.0, -12, 15, 6]])).requires_grad_()
    first = float(loss(box, target).detach())
    for step in range(400):
        (grad,) = torch.autograd.grad(loss(box, target).sum(), box)
        box = (box - 0.99**step * grad / grad.norm()).detach().requires_grad_()
    assert float(loss(box.detach(), target)) < first / 10
