"""float16 under a loss scaler: values stored in the forward pass must survive until backward applies the scale."""

import pytest
import torch
from fused_cases import needs_cpu_kernels
from torch import nn

import focaldet
from focaldet import SparseTargets

pytestmark = needs_cpu_kernels

ROWS, CLASSES = 2000, 20
LABELS = torch.full((ROWS,), -1)
LABELS[:50] = torch.arange(50) % CLASSES
SPARSE = SparseTargets(LABELS, torch.where(LABELS >= 0, 0.7, 0.0))
WHOLE = torch.randint(0, CLASSES, (ROWS,), generator=torch.Generator().manual_seed(0))
LOSSES = {
    "focal": lambda z, **options: focaldet.sigmoid_focal_loss(z, SPARSE, **options),
    "quality focal": lambda z, **options: focaldet.quality_focal_loss(z, SPARSE, **options),
    "binary": lambda z, **options: focaldet.binary_cross_entropy(z, SPARSE, weight=torch.tensor(40.0), **options),
    "cross entropy": lambda z, **options: focaldet.cross_entropy(z, WHOLE, **options),
    "softmax focal": lambda z, **options: focaldet.softmax_focal_loss(z, WHOLE, **options),
}


def background_logits() -> torch.Tensor:
    """Probabilities about .01, as when training begins."""
    z = -4.6 + 0.5 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1))
    return z.half()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1024.0, 2.0**16])
@pytest.mark.parametrize("normalizer", [1, 100, 10**6])
@pytest.mark.parametrize("inplace_grad", [False, True])
def test_gradients_are_those_of_float32_rounded_at_the_end(name, scale, normalizer, inplace_grad):
    def gradient(z, **options):
        z = z.clone().requires_grad_()
        place = z * 1  # a leaf cannot be written over
        place.retain_grad()
        (LOSSES[name](place, reduction="sum", normalizer=normalizer, **options) * scale).backward()
        return place.grad.float() if not inplace_grad else z.grad.float()

    found = gradient(background_logits(), inplace_grad=inplace_grad)
    true = gradient(background_logits().float(), impl="reference")
    # Two roundings to 11 bits, or to the spacing of float16's smallest numbers.
    held = true.abs() < 65000  # beyond it is infinite, and the scaler takes a smaller scale
    found, true = found[held], true[held]
    error = (found - true).abs()
    assert bool((error <= true.abs() * 2**-10 + 2**-24).all()), float((error / (true.abs() + 2**-24)).max())


@pytest.mark.parametrize("name", LOSSES)
def test_means_and_losses_of_elements_too(name):
    z = background_logits().requires_grad_()
    wide = background_logits().float().requires_grad_()
    for reduction in ("mean", "none"):
        for x in (z, wide):
            x.grad = None
            (LOSSES[name](x, reduction=reduction).sum() * 2.0**12).backward()
        held = wide.grad.abs() < 65000
        error = (z.grad.float() - wide.grad).abs()
        assert bool((error <= wide.grad.abs() * 2**-9 + 2**-24)[held].all())


def test_a_weight_beyond_float16_reaches_a_row_and_an_ignored_one_may_weigh_anything():
    z = torch.zeros(3, 1, dtype=torch.float16, requires_grad=True)
    labels = SparseTargets(torch.tensor([0, 0, -2]))
    weight = torch.tensor([[1e5], [1e-3], [float("nan")]])
    focaldet.binary_cross_entropy(z, labels, weight=weight, reduction="sum", normalizer=1e5).backward()
    torch.testing.assert_close(z.grad[:, 0].float(), torch.tensor([-0.5, -0.5e-8, 0.0]), rtol=1e-3, atol=6e-8)


@pytest.mark.slow
def test_a_detector_trained_in_float16_with_a_scaler_follows_float32():
    """200 steps of a small dense head on fixed features: the loss curves agree within noise."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 32, generator=generator)
    truth = torch.randn(32, 8, generator=generator)
    best = (features @ truth).max(1)
    labels = torch.where(best.values > 14, best.indices, -1)
    targets = SparseTargets(labels)
    count = int((labels >= 0).sum())

    def train(dtype: torch.dtype) -> torch.Tensor:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
        nn.init.constant_(net[2].bias, -4.6)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.3)
        scale, curve = 2.0**16, []
        for _ in range(200):
            optimiser.zero_grad()
            logits = net(features).to(dtype)
            loss = focaldet.sigmoid_focal_loss(logits, targets, reduction="sum", normalizer=count)
            (loss * scale).backward()
            finite = all(bool(p.grad.isfinite().all()) for p in net.parameters())
            if not finite:  # what a scaler does
                scale /= 2
                continue
            for p in net.parameters():
                p.grad /= scale
            optimiser.step()
            curve.append(float(loss.detach()))
        return torch.tensor(curve)

    half, full = train(torch.float16), train(torch.float32)
    assert len(half) > 190
    assert full[-1] < 0.5 * full[0]
    torch.testing.assert_close(half[-50:], full[-len(half) :][-50:], rtol=0.03, atol=0.01)
