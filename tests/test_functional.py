"""The public functions: parity with the field's conventions, arguments, and errors."""

from inspect import signature

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

import focaldet
from focaldet import SparseTargets, functional


@pytest.mark.parametrize("alpha", [0.25, 0.6, -1])
@pytest.mark.parametrize("gamma", [0, 1, 2, 3.5])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_focal_replaces_torchvisions_without_changing_a_call(alpha, gamma, reduction):
    z = torch.linspace(-6, 6, 60).view(12, 5)
    y = (torch.arange(60).view(12, 5) % 4 / 3).float()
    for impl in ("reference", "auto"):
        ours = focaldet.sigmoid_focal_loss(z, y, alpha, gamma, reduction, impl=impl)
        torch.testing.assert_close(ours, torchvision_focal_loss(z, y, alpha, gamma, reduction))
    named = {"inputs": z, "targets": y, "alpha": alpha, "gamma": gamma, "reduction": reduction}
    torch.testing.assert_close(focaldet.sigmoid_focal_loss(**named), torchvision_focal_loss(**named))


def test_giou_equals_torchvisions():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [5, 5, 9, 9]])
    other = torch.tensor([[1.0, 1, 3, 3], [4, 4, 5, 5], [5, 5, 9, 9]])
    torch.testing.assert_close(focaldet.giou_loss(boxes, other), generalized_box_iou_loss(boxes, other))


def test_giou_by_hand():
    """I = 1, U = 4 + 4 - 1 = 7, H = 9: 1 - 1/7 + 2/9."""
    loss = focaldet.giou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]]))
    assert float(loss) == pytest.approx(1 - 1 / 7 + 2 / 9, abs=1e-6)


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_an_empty_batch_keeps_the_graph(impl):
    z = torch.zeros(0, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    for loss in (
        focaldet.sigmoid_focal_loss(z, SparseTargets(none), reduction="sum", normalizer=1, impl=impl),
        focaldet.sigmoid_focal_loss(z, SparseTargets(none), reduction="mean", impl=impl),
        focaldet.softmax_focal_loss(z, none, reduction="mean", impl=impl),
        focaldet.distribution_focal_loss(z, none.float(), reduction="sum", impl=impl),
        focaldet.distillation_loss(z, z.detach(), reduction="mean", impl=impl),
        focaldet.giou_loss(z, z.detach(), reduction="mean", impl=impl),
    ):
        (grad,) = torch.autograd.grad(loss, z)
        assert float(loss.detach()) == 0
        assert grad.shape == (0, 4)


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_a_batch_of_background_still_teaches_the_classifier(impl):
    z = torch.zeros(6, 3, requires_grad=True)
    loss = focaldet.quality_focal_loss(z, SparseTargets(torch.full((6,), -1)), reduction="sum", normalizer=1, impl=impl)
    loss.backward()
    assert (z.grad > 0).all()


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_ignored_rows_have_no_loss_and_no_gradient_whatever_stands_in_them(impl):
    z = torch.full((2, 3), float("nan"))
    z[0] = 1.0
    z.requires_grad_()
    loss = focaldet.sigmoid_focal_loss(z, SparseTargets(torch.tensor([2, -2])), reduction="sum", impl=impl)
    loss = loss + focaldet.cross_entropy(z, torch.tensor([2, -100]), reduction="sum", impl=impl)
    loss.backward()
    assert loss.isfinite()
    assert (z.grad[1] == 0).all()
    assert (z.grad[0] != 0).all()


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_mean_is_over_what_is_not_ignored(impl):
    z = torch.zeros(4, 3)
    labels = torch.tensor([0, -1, -2, -2])
    mean = focaldet.binary_cross_entropy(z, SparseTargets(labels), reduction="mean", impl=impl)
    assert float(mean) == pytest.approx(0.6931472)
    mean = focaldet.cross_entropy(z, torch.tensor([0, 1, -100, -100]), reduction="mean", impl=impl)
    assert float(mean) == pytest.approx(1.0986123)  # log 3


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_alpha_of_each_class(impl):
    """α_c weights the positives of class c and 1 - α_c its negatives."""
    z = torch.zeros(1, 2)
    loss = focaldet.sigmoid_focal_loss(
        z, torch.tensor([[1.0, 0.0]]), alpha=torch.tensor([0.2, 0.9]), gamma=0, impl=impl
    )
    torch.testing.assert_close(loss, torch.tensor([[0.2, 0.1]]) * 0.6931472)
    loss = focaldet.softmax_focal_loss(z, torch.tensor([1]), alpha=torch.tensor([0.2, 0.9]), gamma=0, impl=impl)
    torch.testing.assert_close(loss, torch.tensor([0.9]) * 0.6931472)


def test_a_weight_or_target_that_requires_a_gradient_gets_one():
    z, weight = torch.zeros(2, 3), torch.ones(2, 1, requires_grad=True)
    y = torch.full((2, 3), 0.3, requires_grad=True)
    focaldet.quality_focal_loss(z, y, weight=weight, reduction="sum").backward()
    assert weight.grad is not None
    assert (y.grad != 0).all()
    with pytest.raises(ValueError, match="requires a gradient"):
        focaldet.quality_focal_loss(z, y, impl="fused")


def test_modules_are_their_functions():
    z = torch.linspace(-3, 3, 12).view(4, 3)
    target = SparseTargets(torch.tensor([0, -1, 2, -2]), torch.rand(4))
    labels, positions = torch.tensor([0, 1, 2, -100]), torch.tensor([0.0, 0.5, 1.7, 2.0])
    boxes, other = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    for module, function, args in [
        (focaldet.SigmoidFocalLoss(alpha=0.4, gamma=1), focaldet.sigmoid_focal_loss, (z, target, 0.4, 1)),
        (focaldet.BinaryCrossEntropy(), focaldet.binary_cross_entropy, (z, target)),
        (focaldet.QualityFocalLoss(), focaldet.quality_focal_loss, (z, target)),
        (focaldet.VarifocalLoss(), focaldet.varifocal_loss, (z, target)),
        (focaldet.MatchabilityAwareLoss(), focaldet.matchability_aware_loss, (z, target)),
        (focaldet.SoftmaxFocalLoss(), focaldet.softmax_focal_loss, (z, labels)),
        (focaldet.CrossEntropy(), focaldet.cross_entropy, (z, labels)),
        (focaldet.DistributionFocalLoss(), focaldet.distribution_focal_loss, (z, positions)),
        (focaldet.DistillationLoss(), focaldet.distillation_loss, (z, z.flip(0))),
        (focaldet.GIoULoss(), focaldet.giou_loss, (boxes, other)),
        (focaldet.IoULoss(), focaldet.iou_loss, (boxes, other)),
        (focaldet.DIoULoss(), focaldet.diou_loss, (boxes, other)),
        (focaldet.CIoULoss(), focaldet.ciou_loss, (boxes, other)),
        (focaldet.EIoULoss(), focaldet.eiou_loss, (boxes, other)),
        (focaldet.SIoULoss(), focaldet.siou_loss, (boxes, other)),
        (focaldet.IoUAwareBCE(), focaldet.iou_aware_bce_loss, (z, target)),
        (focaldet.QuadraticLoss(), focaldet.quadratic_loss, (z, z.sigmoid())),
    ]:
        assert torch.equal(module(*args[:2]), function(*args))
    module = focaldet.SoftmaxFocalLoss(alpha=torch.tensor([1.0, 2, 3]), reduction="sum")
    assert list(module.state_dict()) == ["alpha"]
    assert "alpha" in dict(module.named_buffers())
    assert torch.equal(
        module(z, labels, weight=2.0, normalizer=3),
        focaldet.softmax_focal_loss(z, labels, alpha=module.alpha, reduction="sum", weight=2.0, normalizer=3),
    )
    assert "gamma=2" in repr(focaldet.SigmoidFocalLoss())


def test_a_module_shows_its_options():
    options = signature(focaldet.SigmoidFocalLoss).parameters
    assert list(options) == ["alpha", "gamma", "reduction", "impl", "inplace_grad"]
    assert options["gamma"].default == 2.0


def test_every_public_loss_is_at_the_top_of_the_package():
    for name in functional.__all__:
        assert getattr(focaldet, name) is getattr(functional, name)


Z = torch.zeros(4, 3)
LABELS = SparseTargets(torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: focaldet.sigmoid_focal_loss(Z, Z, gamma=-1), "gamma: expected a number >= 0, got -1"),
        (lambda: focaldet.quality_focal_loss(Z, Z, beta=-1), "beta: expected a number >= 0"),
        (lambda: focaldet.quality_focal_loss(Z, Z, reduction="avg"), "reduction: expected one of"),
        (lambda: focaldet.quality_focal_loss(Z, Z, impl="triton"), "impl: expected one of"),
        (lambda: focaldet.quality_focal_loss(Z, Z[:, :2]), r"targets: expected shape \(4, 3\), got \(4, 2\)"),
        (
            lambda: focaldet.quality_focal_loss(Z, SparseTargets(torch.zeros(3).long())),
            "targets.labels: expected shape",
        ),
        (lambda: focaldet.quality_focal_loss(Z.long(), LABELS), "expected a floating-point tensor"),
        (lambda: focaldet.quality_focal_loss(Z.double(), LABELS, impl="fused"), "not torch.float64"),
        (lambda: focaldet.quality_focal_loss([Z[None, :, :, None]], Z), "expected SparseTargets"),
        (lambda: focaldet.softmax_focal_loss(Z, Z[:, 0]), "labels: expected integers"),
        (lambda: focaldet.softmax_focal_loss(Z, LABELS.labels, label_smoothing=2), "label_smoothing"),
        (lambda: focaldet.distribution_focal_loss(Z, Z), "targets: expected shape"),
        (lambda: focaldet.giou_loss(Z, Z), r"expected shape \(..., 4\)"),
        (lambda: focaldet.sigmoid_focal_loss(Z, LABELS.labels), "targets"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
