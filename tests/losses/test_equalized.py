"""The equalized losses against the authors' way of computing them, and kernel against formula."""

import pytest
import torch
from torch import Tensor

import focaldet
from focaldet import SparseTargets, kernels
from focaldet.losses.equalized import class_exponents

CLASSES = 7
needs_cpu_kernels = pytest.mark.skipif(kernels.available()["cpu"] is not None, reason="no C++ kernels")
IMPLS = ["reference", pytest.param("fused", marks=needs_cpu_kernels)]


def scene(batch: int = 2, anchors: int = 1, dtype=torch.float64) -> tuple[list[Tensor], SparseTargets]:
    """Maps of three levels, sparse targets with ignored sites, and qualities."""
    generator = torch.Generator().manual_seed(5)
    shapes = ((13, 17), (7, 9), (4, 5))
    maps = [3 * torch.randn(batch, anchors * CLASSES, *s, generator=generator, dtype=torch.float64) for s in shapes]
    sites = anchors * sum(h * w for h, w in shapes)
    labels = torch.full((batch, sites), -1)
    places = torch.rand(batch, sites, generator=generator)
    labels[places < 0.1] = -2
    labels[places > 0.9] = torch.randint(0, CLASSES, (int((places > 0.9).sum()),), generator=generator)
    quality = torch.rand(batch, sites, generator=generator)
    return [x.to(dtype) for x in maps], SparseTargets(labels, quality)


def authors(rows: Tensor, labels: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and sums as in the authors' efl.py: a gradient taken afterwards, and summed by the target."""
    rows = rows.detach().double().requires_grad_()
    counted = labels != -2
    inputs = rows[counted]
    targets = torch.nn.functional.one_hot(labels.clamp(min=-1) + 1, CLASSES + 1)[:, 1:][counted].double()
    pred = torch.sigmoid(inputs)
    pred_t = pred * targets + (1 - pred) * (1 - targets)
    gamma = 2.0 + 8.0 * (1 - ratio.double())
    loss = -torch.log(pred_t) * torch.pow(1 - pred_t, gamma) * (gamma / 2.0)
    loss = (0.25 * targets + 0.75 * (1 - targets)) * loss
    total = loss.sum() / 11
    (grad,) = torch.autograd.grad(total, rows)
    size = grad.abs()[counted]
    return total.detach(), grad, torch.stack([(size * targets).sum(0), (size * (1 - targets)).sum(0)])


GRADIENTS = torch.tensor([[1.0, 0.2, 3.0, 0, 5, 0, 1], [2.0, 4.0, 1.0, 0, 5, 3, 100]])


def rows_of(maps: list[Tensor]) -> Tensor:
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, CLASSES) for x in maps], 1).reshape(-1, CLASSES)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("anchors", [1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_loss_gradient_and_sums_are_those_of_the_authors(impl, anchors, last):
    maps, targets = scene(anchors=anchors, dtype=torch.float32)
    form = torch.channels_last if last else torch.contiguous_format
    maps = [x.contiguous(memory_format=form).requires_grad_() for x in maps]
    ratio = (GRADIENTS[0] / (GRADIENTS[1] + 1e-10)).clamp(0, 1)
    ratio[3] = 1  # nothing seen: their ratio starts at 1
    loss, sums = focaldet.equalized_focal_loss(maps, SparseTargets(targets.labels), GRADIENTS, normalizer=11, impl=impl)
    total, grad, expected = authors(rows_of(maps), targets.labels.flatten(), ratio)
    torch.testing.assert_close(loss.detach().double(), total, rtol=1e-5, atol=0)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-7)
    loss.backward()
    torch.testing.assert_close(rows_of([x.grad for x in maps]).double(), grad, rtol=2e-5, atol=1e-7)


@needs_cpu_kernels
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quality_form_of_the_kernel_is_the_formulas(dtype, last):
    maps, targets = scene(anchors=2, dtype=torch.float32)
    form = torch.channels_last if last else torch.contiguous_format
    results = []
    for impl, kind in (("reference", torch.float64), ("fused", dtype)):
        own = [x.to(dtype).to(kind).contiguous(memory_format=form).requires_grad_() for x in maps]
        loss, sums = focaldet.equalized_quality_loss(own, targets, GRADIENTS, normalizer=torch.tensor(9.0), impl=impl)
        (loss * 3).backward()
        results.append((loss.detach().double(), sums, rows_of([x.grad for x in own]).double()))
    torch.testing.assert_close(results[1][:2], results[0][:2], rtol=1e-5, atol=1e-7)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(results[1][2], results[0][2], rtol=rounding, atol=rounding * 0.1)


@pytest.mark.parametrize("impl", IMPLS)
def test_without_a_history_they_are_the_plain_losses(impl):
    maps, targets = scene(dtype=torch.float32)
    nothing = torch.zeros(2, CLASSES)
    plain = SparseTargets(targets.labels)
    torch.testing.assert_close(
        focaldet.equalized_focal_loss(maps, plain, nothing, impl=impl)[0],
        focaldet.sigmoid_focal_loss(maps, plain, reduction="sum"),
    )
    torch.testing.assert_close(
        focaldet.equalized_quality_loss(maps, targets, nothing, impl=impl)[0],
        focaldet.quality_focal_loss(maps, targets, reduction="sum"),
    )


@needs_cpu_kernels
def test_a_second_backward_and_large_inputs_of_many_threads_are_right():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9000, CLASSES, generator=generator, requires_grad=True)
    labels = torch.randint(-2, CLASSES, (9000,), generator=generator)
    loss, sums = focaldet.equalized_focal_loss(rows, SparseTargets(labels), GRADIENTS, impl="fused")
    first = torch.autograd.grad(loss, rows, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(loss, rows)[0], first)
    value, expected = focaldet.equalized_focal_loss(rows.double(), SparseTargets(labels), GRADIENTS, impl="reference")
    torch.testing.assert_close(loss.double(), value, rtol=1e-5, atol=0)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=0)


def test_nan_in_an_ignored_row_reaches_neither_loss_nor_sums():
    rows = torch.zeros(3, CLASSES)
    rows[1] = float("nan")
    for impl in ("auto", "reference"):
        loss, sums = focaldet.equalized_focal_loss(rows, SparseTargets(torch.tensor([0, -2, -1])), GRADIENTS, impl=impl)
        assert bool(loss.isfinite())
        assert bool(sums.isfinite().all())


def test_exponents_follow_the_ratio():
    found = class_exponents(GRADIENTS, gamma=2, scale=8)
    torch.testing.assert_close(found, torch.tensor([6.0, 9.6, 2, 2, 2, 10, 9.92]))


def test_what_is_refused():
    rows, targets = torch.zeros(2, 3), SparseTargets(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="gradients: expected shape"):
        focaldet.equalized_focal_loss(rows, targets, torch.zeros(2, 4))
    with pytest.raises(TypeError, match="expected SparseTargets"):
        focaldet.equalized_focal_loss(rows, torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="gamma: expected a number > 0"):
        focaldet.equalized_focal_loss(rows, targets, torch.zeros(2, 3), gamma=0)
    with pytest.raises(ValueError, match=r"labels: expected -2 \.\. 2"):
        focaldet.equalized_focal_loss(rows, SparseTargets(torch.tensor([3, 0])), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"impl='fused': .*float64"):
        focaldet.equalized_focal_loss(rows.double(), targets, torch.zeros(2, 3), impl="fused")
