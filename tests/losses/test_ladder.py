"""The special cases that tie the losses together, rung by rung."""

from math import log

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, one_hot
from torch.nn.functional import cross_entropy as torch_cross_entropy

import focaldet
from focaldet import SparseTargets

LOGITS = torch.linspace(-12, 12, 240, dtype=torch.float64).view(40, 6)
HARD = (torch.arange(240).view(40, 6) % 3 == 0).double()
SOFT = torch.linspace(0, 1, 240, dtype=torch.float64).flip(0).view(40, 6)


def test_gamma_zero_without_alpha_is_binary_cross_entropy():
    focal = focaldet.sigmoid_focal_loss(LOGITS, HARD, alpha=None, gamma=0)
    torch.testing.assert_close(focal, focaldet.binary_cross_entropy(LOGITS, HARD))
    torch.testing.assert_close(focal, binary_cross_entropy_with_logits(LOGITS, HARD, reduction="none"))


def test_gamma_zero_with_alpha_is_balanced_binary_cross_entropy():
    focal = focaldet.sigmoid_focal_loss(LOGITS, HARD, alpha=0.25, gamma=0)
    weight = torch.where(HARD == 1, 0.25, 0.75)
    torch.testing.assert_close(focal, weight * binary_cross_entropy_with_logits(LOGITS, HARD, reduction="none"))


@pytest.mark.parametrize("exponent", [0, 0.25, 1, 1.5, 2, 5])
def test_quality_focal_on_hard_labels_is_focal_without_alpha(exponent):
    quality = focaldet.quality_focal_loss(LOGITS, HARD, beta=exponent)
    torch.testing.assert_close(quality, focaldet.sigmoid_focal_loss(LOGITS, HARD, alpha=None, gamma=exponent))


@pytest.mark.parametrize("beta", [0, 0.5, 2])
def test_general_form_with_two_ends_is_quality_focal(beta):
    general = focaldet.generalized_focal_loss(logsigmoid(-LOGITS), logsigmoid(LOGITS), SOFT, beta=beta)
    torch.testing.assert_close(general, focaldet.quality_focal_loss(LOGITS, SOFT, beta=beta))


def test_general_form_between_two_bins_is_distribution_focal():
    position = torch.linspace(0, 4.99, 40, dtype=torch.float64)
    left = position.floor()
    log_probs = LOGITS.log_softmax(-1)
    general = focaldet.generalized_focal_loss(
        log_probs.gather(1, left.long()[:, None])[:, 0],
        log_probs.gather(1, left.long()[:, None] + 1)[:, 0],
        position,
        beta=0,
        left=left,
        right=left + 1,
    )
    torch.testing.assert_close(general, focaldet.distribution_focal_loss(LOGITS, position))


@pytest.mark.parametrize("bin_index", range(6))
def test_distribution_focal_at_a_bin_is_softmax_cross_entropy(bin_index):
    labels = torch.full((40,), bin_index)
    distribution = focaldet.distribution_focal_loss(LOGITS, labels.double())
    torch.testing.assert_close(distribution, torch_cross_entropy(LOGITS, labels, reduction="none"))


def test_softmax_focal_without_gamma_is_cross_entropy():
    labels = torch.arange(40) % 6
    for smoothing in (0.0, 0.1):
        focal = focaldet.softmax_focal_loss(LOGITS, labels, gamma=0, label_smoothing=smoothing)
        torch.testing.assert_close(
            focal, torch_cross_entropy(LOGITS, labels, reduction="none", label_smoothing=smoothing)
        )


def test_softmax_focal_of_two_classes_is_sigmoid_focal_of_the_difference():
    labels = torch.arange(40) % 2
    two = LOGITS[:, :2]
    softmax = focaldet.softmax_focal_loss(two, labels, gamma=1.5)
    difference = two[:, 1] - two[:, 0]
    sigmoid = focaldet.sigmoid_focal_loss(difference[:, None], labels.double()[:, None], alpha=None, gamma=1.5)
    torch.testing.assert_close(softmax, sigmoid[:, 0])


def test_focal_of_a_hard_target_is_cross_entropy_times_a_power_of_the_miss():
    """FL / CE = (1 - p_t)^γ: the modulating factor of the paper's equation 4."""
    focal = focaldet.sigmoid_focal_loss(LOGITS, HARD, alpha=None, gamma=2)
    p = LOGITS.sigmoid()
    miss = torch.where(HARD == 1, 1 - p, p)
    torch.testing.assert_close(focal, miss**2 * focaldet.binary_cross_entropy(LOGITS, HARD))


def test_the_papers_example_counts_of_easy_and_hard_samples():
    """With γ = 2 a positive at p = .95 counts (1 - .95)² = .0025 of its cross entropy, at .3 .49, at .5 .25."""
    p = torch.tensor([0.95, 0.3, 0.5], dtype=torch.float64)
    ones = torch.ones_like(p)
    ratio = focaldet.sigmoid_focal_loss(p.logit(), ones, alpha=None) / focaldet.binary_cross_entropy(p.logit(), ones)
    torch.testing.assert_close(ratio, torch.tensor([0.0025, 0.49, 0.25], dtype=torch.float64))


@pytest.mark.parametrize("quality", [0.1, 0.5, 0.7, 0.9])
def test_quality_focal_has_its_minimum_zero_at_the_label(quality):
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    loss = focaldet.quality_focal_loss(p.logit(), torch.full_like(p, quality))
    assert abs(float(p[loss.argmin()]) - quality) < 1e-9
    assert float(loss.min()) < 1e-12


def test_focal_with_a_soft_label_overshoots_it():
    """γ = 2, target .7: the minimum is at .878, not at .7."""
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    loss = focaldet.sigmoid_focal_loss(p.logit(), torch.full_like(p, 0.7), alpha=None)
    assert float(p[loss.argmin()]) == pytest.approx(0.878, abs=1e-3)


def test_distribution_focal_at_its_minimum_expects_the_label():
    """Minimum at S_i = y_{i+1} - y, S_{i+1} = y - y_i: the loss is the entropy, the expectation is y."""
    y = torch.tensor([2.3], dtype=torch.float64)
    weights = torch.tensor([[1e-30, 1e-30, 0.7, 0.3, 1e-30]], dtype=torch.float64)
    logits = weights.log().requires_grad_()
    loss = focaldet.distribution_focal_loss(logits, y)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert float(loss.detach()) == pytest.approx(-(0.7 * log(0.7) + 0.3 * log(0.3)))
    assert float(grad.abs().max()) < 1e-12
    assert float((logits.softmax(-1) * torch.arange(5)).sum().detach()) == pytest.approx(2.3)


def test_distillation_between_its_two_limits():
    """T → ∞: half the variance of t - z. T → 0: T KL is the lead that the student gives another class. A teacher
    without doubt: cross entropy."""
    z = LOGITS.sin() * torch.arange(1, 7)
    t = z.flip(0)
    hot = focaldet.distillation_loss(z, t, temperature=1e5)
    torch.testing.assert_close(hot, (t - z).var(-1, correction=0) / 2, rtol=1e-3, atol=1e-4)
    cold = focaldet.distillation_loss(z, t, temperature=1e-4) / 1e-4
    lead = z.amax(-1) - z.gather(-1, t.argmax(-1, keepdim=True)).squeeze(-1)
    torch.testing.assert_close(cold, lead, rtol=1e-3, atol=1e-3)
    labels = torch.arange(40) % 6
    certain = focaldet.distillation_loss(z, 1e4 * one_hot(labels, 6).double(), temperature=1.0)
    torch.testing.assert_close(certain, focaldet.cross_entropy(z, labels))


def test_varifocal_of_perfect_positives_is_binary_cross_entropy_on_them():
    ones = torch.ones_like(LOGITS)
    torch.testing.assert_close(focaldet.varifocal_loss(LOGITS, ones), focaldet.binary_cross_entropy(LOGITS, ones))


def test_matchability_aware_with_gamma_one_targets_the_quality_itself():
    positive = SOFT.clamp(min=0.01)
    torch.testing.assert_close(
        focaldet.matchability_aware_loss(LOGITS, positive, gamma=1), focaldet.binary_cross_entropy(LOGITS, positive)
    )


def test_iou_aware_bce_without_a_share_of_the_probability_targets_the_quality_itself():
    positive = SOFT.clamp(min=0.01)
    torch.testing.assert_close(
        focaldet.iou_aware_bce_loss(LOGITS, positive, alpha=0), focaldet.binary_cross_entropy(LOGITS, positive)
    )


def test_iou_aware_bce_is_that_of_rf_detr():
    """Written as there: ``neg * z - logsigmoid(z) * (pos + neg)`` with neg = p² and, at positives, 1 - t."""
    p = LOGITS.detach().sigmoid()
    target = torch.clamp(p.pow(0.25) * SOFT.pow(0.75), min=0.01)
    z = LOGITS.detach().requires_grad_()
    negative = torch.where(SOFT > 0, 1 - target, z.sigmoid() ** 2)
    positive = torch.where(SOFT > 0, target, 0.0)
    theirs = negative * z - torch.nn.functional.logsigmoid(z) * (positive + negative)
    ours = focaldet.iou_aware_bce_loss(z, SOFT)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), z), torch.autograd.grad(theirs.sum(), z))


def test_sparse_targets_are_the_dense_ones_they_stand_for():
    labels = torch.arange(40) % 7 - 1  # background and the classes 0 .. 5
    quality = torch.linspace(0, 1, 40, dtype=torch.float64)
    dense = one_hot(labels.clamp(min=0), 6) * (labels >= 0)[:, None] * quality[:, None]
    for loss in (focaldet.quality_focal_loss, focaldet.binary_cross_entropy, focaldet.varifocal_loss):
        torch.testing.assert_close(loss(LOGITS, SparseTargets(labels, quality)), loss(LOGITS, dense))


def test_a_saturated_wrong_neuron_learns_slowly_by_the_quadratic_cost_only():
    """z = 10, y = 0: dC/dz is a² (1 - a) = 4.5e-5 for the quadratic cost and a = 1 for cross entropy."""
    z = torch.tensor([10.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    (quadratic,) = torch.autograd.grad(focaldet.quadratic_loss(z, zero).sum(), z)
    (entropy,) = torch.autograd.grad(focaldet.binary_cross_entropy(z, zero).sum(), z)
    assert float(quadratic) == pytest.approx(4.54e-5, rel=1e-2)
    assert float(entropy) == pytest.approx(1.0, rel=1e-4)
