"""First and second derivatives of the plain formulas in float64, and their closed forms."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from focaldet.losses import (
    cross_entropy,
    distillation,
    distribution_focal,
    focal,
    generalized_focal,
    ia_bce,
    iou,
    mal,
    quadratic,
    quality_focal,
    varifocal,
)

EXPONENTS = [0, 0.25, 0.5, 1, 1.5, 2, 5]
EXTREME = torch.tensor([0, 9.4, 18, 30, 100, 1e4], dtype=torch.float64)
EXTREME = torch.cat([-EXTREME, EXTREME])


def logits(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


Z = logits(4, 3)
Y = torch.tensor([[0, 1, 0.3], [0.8, 0, 1], [1, 0.5, 0], [0, 0, 0.9]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 2])
POSITIONS = torch.tensor([0.0, 0.4, 2.0, 1.0], dtype=torch.float64)

SIGMOID = {
    "quadratic": quadratic.quadratic_loss,
    "binary_cross_entropy": cross_entropy.binary_cross_entropy,
    **{f"focal_{g}": partial(focal.sigmoid_focal_loss, gamma=g) for g in EXPONENTS},
    **{f"quality_{b}": partial(quality_focal.quality_focal_loss, beta=b) for b in EXPONENTS},
    **{f"varifocal_{g}": partial(varifocal.varifocal_loss, gamma=g) for g in EXPONENTS},
}


@pytest.mark.parametrize("name", SIGMOID)
def test_sigmoid_formulas_have_two_right_derivatives(name):
    assert gradcheck(lambda z: SIGMOID[name](z, Y), (Z,))
    assert gradgradcheck(lambda z: SIGMOID[name](z, Y), (Z,))


@pytest.mark.parametrize("gamma", EXPONENTS)
def test_softmax_formulas_have_two_right_derivatives(gamma):
    def loss(z):
        return focal.softmax_focal_loss(z, LABELS, gamma=gamma, label_smoothing=0.1, alpha=torch.tensor([1.0, 2, 3]))

    assert gradcheck(loss, (Z,))
    assert gradgradcheck(loss, (Z,))


def test_distribution_general_and_box_formulas_have_two_right_derivatives():
    assert gradcheck(lambda z: distribution_focal.distribution_focal_loss(z, POSITIONS), (Z,))
    assert gradgradcheck(lambda z: distribution_focal.distribution_focal_loss(z, POSITIONS), (Z,))

    teach = partial(distillation.distillation_loss, teacher_logits=logits(4, 3).detach() + Y, temperature=3.0)
    assert gradcheck(teach, (Z,))
    assert gradgradcheck(teach, (Z,))

    def general(z):
        left, right = z.log_softmax(-1)[:, 0], z.log_softmax(-1)[:, 1]
        return generalized_focal.generalized_focal_loss(left, right, torch.full((4,), 0.35, dtype=torch.float64))

    assert gradcheck(general, (Z,))
    assert gradgradcheck(general, (Z,))
    boxes = torch.tensor([[0.0, 0, 2, 3], [1, 1, 5, 4], [0, 0, 1, 1]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, 0.5, 3, 2], [2, 0, 4, 6], [5, 5, 6, 7]], dtype=torch.float64, requires_grad=True)
    for loss in (iou.iou_loss, iou.giou_loss, iou.diou_loss, iou.eiou_loss, iou.siou_loss):
        # SIoU has an edge where the centres lie above each other, as those of a pair here do.
        own = boxes if loss is not iou.siou_loss else (boxes.detach() + 0.1).requires_grad_()
        assert gradcheck(loss, (own, targets))
        assert gradgradcheck(loss, (own, targets))


def derivative(loss, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(loss(z).sum(), z)[0]


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_closed_forms_equal_the_derivatives(exponent):
    hard = Y.round()
    pairs = [
        (partial(quadratic.quadratic_loss, targets=Y), partial(quadratic.quadratic_loss_grad, targets=Y)),
        (
            partial(cross_entropy.binary_cross_entropy, targets=Y),
            partial(cross_entropy.binary_cross_entropy_grad, targets=Y),
        ),
        (
            partial(cross_entropy.cross_entropy, labels=LABELS, label_smoothing=0.2),
            partial(cross_entropy.cross_entropy_grad, labels=LABELS, label_smoothing=0.2),
        ),
        (
            partial(focal.sigmoid_focal_loss, targets=hard, gamma=exponent),
            partial(focal.sigmoid_focal_loss_grad, targets=hard, gamma=exponent),
        ),
        (
            partial(focal.softmax_focal_loss, labels=LABELS, gamma=exponent),
            partial(focal.softmax_focal_loss_grad, labels=LABELS, gamma=exponent),
        ),
        (
            partial(quality_focal.quality_focal_loss, targets=Y, beta=exponent),
            partial(quality_focal.quality_focal_loss_grad, targets=Y, beta=exponent),
        ),
        (
            partial(distribution_focal.distribution_focal_loss, targets=POSITIONS),
            partial(distribution_focal.distribution_focal_loss_grad, targets=POSITIONS),
        ),
        (
            partial(distillation.distillation_loss, teacher_logits=Y, temperature=1 + exponent),
            partial(distillation.distillation_loss_grad, teacher_logits=Y, temperature=1 + exponent),
        ),
        (
            partial(varifocal.varifocal_loss, targets=Y, gamma=exponent),
            partial(varifocal.varifocal_loss_grad, targets=Y, gamma=exponent),
        ),
        (
            partial(mal.matchability_aware_loss, targets=Y, gamma=exponent, alpha=0.6),
            partial(mal.matchability_aware_loss_grad, targets=Y, gamma=exponent, alpha=0.6),
        ),
        (
            partial(ia_bce.iou_aware_bce_loss, targets=Y, gamma=exponent, alpha=0.4),
            partial(ia_bce.iou_aware_bce_loss_grad, targets=Y, gamma=exponent, alpha=0.4),
        ),
    ]
    for loss, closed_form in pairs:
        torch.testing.assert_close(closed_form(Z.detach()), derivative(loss, Z))


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("y", [0.0, 0.3, 1.0])
def test_extreme_logits_give_finite_losses_and_derivatives(exponent, dtype, y):
    z = EXTREME.to(dtype)
    targets = torch.full_like(z, y)
    for loss in (
        partial(focal.sigmoid_focal_loss, targets=targets, gamma=exponent),
        partial(quality_focal.quality_focal_loss, targets=targets, beta=exponent),
        partial(varifocal.varifocal_loss, targets=targets, gamma=exponent),
        partial(mal.matchability_aware_loss, targets=targets, gamma=exponent),
        partial(ia_bce.iou_aware_bce_loss, targets=targets, gamma=exponent),
    ):
        value, grad = loss(z), derivative(loss, z)
        assert value.isfinite().all()
        assert grad.isfinite().all()
        assert (value >= 0).all()
        # For a hard label the loss never pushes away from it.
        assert y == 0.3 or ((grad >= 0).all() if y == 0 else (grad <= 0).all())


def test_second_derivatives_of_saturated_logits_are_finite():
    """A power of 1 - p_t would have the derivative 0 ** (γ - 2) there."""
    z = EXTREME.requires_grad_()
    for loss in (
        focal.sigmoid_focal_loss(z, torch.ones_like(z), gamma=0.5),
        quality_focal.quality_focal_loss(z, torch.ones_like(z), beta=1.5),
    ):
        (first,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), z)
        assert second.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_number_as_alpha_weights_every_class_of_softmax_focal_loss(smoothing):
    plain = focal.softmax_focal_loss(Z, LABELS, label_smoothing=smoothing)
    weighted = focal.softmax_focal_loss(Z, LABELS, label_smoothing=smoothing, alpha=3.0)
    torch.testing.assert_close(weighted, 3 * plain)


def test_derivative_of_distribution_focal_loss_takes_rows_of_any_shape():
    rows = distribution_focal.distribution_focal_loss_grad(Z, POSITIONS)
    grid = distribution_focal.distribution_focal_loss_grad(Z.view(2, 2, 3), POSITIONS.view(2, 2))
    torch.testing.assert_close(grid, rows.view(2, 2, 3))
