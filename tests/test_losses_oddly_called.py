"""Unusual calls with one right answer, checked for kernel and formula against float64."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import focaldet
from focaldet import SparseTargets

Z = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
SOFT = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
SPARSE = SparseTargets(torch.tensor([0, 3, -1, 2, -2, 1]), torch.tensor([0.2, 0.9, 0.0, 1.0, 0.3, 0.5]))
CLASSES = torch.tensor([0, 3, 1, 2, -100, 1])
POSITIONS = torch.tensor([0.0, 0.5, 3.0, 2.2, 1.0, 1.7])
BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 3], [0, 0, 1, 5]]).repeat(2, 1)
OTHERS = BOXES + torch.tensor([0.3, 0.1, 0.5, 0.2])

SIGMOID: dict[str, Callable[..., Tensor]] = {
    "binary": focaldet.binary_cross_entropy,
    "focal": focaldet.sigmoid_focal_loss,
    "quality focal": focaldet.quality_focal_loss,
    "varifocal": focaldet.varifocal_loss,
    "matchability": focaldet.matchability_aware_loss,
    "iou-aware": focaldet.iou_aware_bce_loss,
}
WITH_KERNEL: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    **{f"{name}, dense": (partial(loss, targets=SOFT), Z) for name, loss in SIGMOID.items()},
    **{f"{name}, sparse": (partial(loss, targets=SPARSE), Z) for name, loss in SIGMOID.items()},
    "cross entropy": (partial(focaldet.cross_entropy, labels=CLASSES), Z),
    "softmax focal": (partial(focaldet.softmax_focal_loss, labels=CLASSES, label_smoothing=0.1), Z),
    "distribution": (partial(focaldet.distribution_focal_loss, targets=POSITIONS), Z),
    "distillation": (partial(focaldet.distillation_loss, teacher_logits=5 * SOFT, temperature=2.0), Z),
    **{
        name: (partial(getattr(focaldet, f"{name}_loss"), target_boxes_xyxy=OTHERS), BOXES)
        for name in ("giou", "iou", "diou", "ciou", "eiou", "siou")
    },
}
ALL = WITH_KERNEL | {
    "quadratic": (partial(focaldet.quadratic_loss, targets=SOFT), Z),
    "general": (lambda z, **options: focaldet.generalized_focal_loss(z, z, SOFT, **options), -Z.abs()),
    "cross entropy with shares": (partial(focaldet.cross_entropy, labels=SOFT / SOFT.sum(1, keepdim=True)), Z),
}
BY_CLASS = {
    name: WITH_KERNEL[name][0]
    for name in ("focal, dense", "focal, sparse", "varifocal, sparse", "matchability, sparse", "cross entropy")
}


def ways(name: str) -> list[dict[str, str]]:
    return [{"impl": "fused"}, {"impl": "reference"}] if name in WITH_KERNEL else [{}]


def value_and_gradient(loss: Callable[..., Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    value = loss(z)
    return value.detach(), torch.autograd.grad(value.sum(), z)[0]


def assert_as_float64(name: str, z: Tensor, rtol: float = 1e-5, **options: object) -> None:
    loss, _ = ALL[name]
    true = value_and_gradient(partial(loss, **options), z.double())
    for way in ways(name):
        found = value_and_gradient(partial(loss, **options, **way), z)
        for a, b in zip(found, true, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=rtol, atol=1e-6)


def shape_of_losses(name: str) -> torch.Size:
    loss, z = ALL[name]
    return loss(z).shape


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float16, torch.float64])
def test_a_weight_of_any_real_dtype(name, dtype):
    weight = (torch.arange(shape_of_losses(name).numel()) % 3).reshape(shape_of_losses(name)).to(dtype)
    assert_as_float64(name, ALL[name][1], weight=weight, reduction="sum")


@pytest.mark.parametrize("name", ALL)
def test_a_weight_of_any_shape_that_broadcasts(name):
    shape = shape_of_losses(name)
    shapes = [(), (1,), shape, shape[-1:], (*shape[:-1], 1)]
    for each in shapes:
        weight = 0.5 + torch.rand(each, generator=torch.Generator().manual_seed(2))
        for reduction in ("sum", "mean", "none"):
            assert_as_float64(name, ALL[name][1], weight=weight, reduction=reduction)


@pytest.mark.parametrize("name", BY_CLASS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64])
def test_alpha_of_any_real_dtype(name, dtype):
    alpha = torch.tensor([0, 1, 1, 0]).to(dtype)
    assert_as_float64(name, Z, alpha=alpha, reduction="sum")
    assert_as_float64(name, Z, alpha=alpha[1], reduction="sum")


@pytest.mark.parametrize("normalizer", [np.float32(4), np.int64(4), True, torch.tensor(4), torch.tensor([4.0]).half()])
def test_a_normaliser_of_any_kind_of_number(normalizer):
    for name in ("focal, sparse", "cross entropy", "giou", "iou"):
        assert_as_float64(name, ALL[name][1], reduction="sum", normalizer=normalizer)


def test_options_may_be_numbers_of_numpy():
    loss = partial(focaldet.softmax_focal_loss, Z, CLASSES, reduction="sum")
    found = loss(gamma=np.float64(1.5), label_smoothing=np.float32(0.125), ignore_index=np.int64(-100))
    torch.testing.assert_close(found, loss(gamma=1.5, label_smoothing=0.125))
    for each in (torch.tensor(-100), -100):
        assert torch.equal(loss(ignore_index=each), loss())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("silent", [math.nan, math.inf, -math.inf])
def test_what_weighs_0_has_no_loss_and_no_gradient(name, silent):
    loss, z = ALL[name]
    spoiled = z.clone()
    spoiled[1] = silent
    shape = shape_of_losses(name)
    weight = torch.ones(shape)
    weight[1] = 0
    for way in ways(name):
        value, grad = value_and_gradient(partial(loss, weight=weight, reduction="sum", **way), spoiled)
        expected = value_and_gradient(partial(loss, weight=weight, reduction="sum", **way), z)
        assert torch.equal(value, expected[0])
        assert torch.equal(grad[1], torch.zeros_like(grad[1]))
        value, grad = value_and_gradient(partial(loss, weight=0.0, reduction="sum", **way), spoiled)
        assert float(value) == 0
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("name", SIGMOID)
@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 3.0])
def test_an_infinite_logit_that_is_right_has_no_loss_and_no_gradient(name, impl, exponent):
    option = {"binary": {}, "quality focal": {"beta": exponent}}.get(name, {"gamma": exponent})
    z, y = torch.tensor([[-math.inf, math.inf, 0.3]]), torch.tensor([[0.0, 1.0, 0.4]])
    value, grad = value_and_gradient(partial(SIGMOID[name], targets=y, impl=impl, **option), z)
    _, finite = value_and_gradient(partial(SIGMOID[name], targets=y, impl=impl, **option), z.clamp(-1e4, 1e4))
    assert value[0, :2].abs().max() <= 2e-38
    assert grad[0, :2].abs().max() <= 2e-38
    torch.testing.assert_close(grad, finite)
    sparse = partial(SIGMOID[name], targets=SparseTargets(torch.tensor([1])), impl=impl, **option)
    value, grad = value_and_gradient(sparse, z)
    assert value[0, :2].abs().max() <= 2e-38
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", SIGMOID)
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_the_gradient_of_a_logit_of_any_size_is_right(name, target, exponent):
    sizes = torch.tensor([1e-3, 1, 17, 40, 87, 89, 104, 200, 1e4, 1e20, 1e30, 1e37])
    z = torch.cat([sizes, -sizes])[:, None]
    option = {"binary": {}, "quality focal": {"beta": exponent}}.get(name, {"gamma": exponent})
    loss = partial(SIGMOID[name], targets=torch.full_like(z, target), **option)
    true = value_and_gradient(loss, z.double())
    # A target that float32 rounds to 1 stands beside a logit of 17.
    atol = 2e-7 if name == "iou-aware" else 1e-7
    for impl in ("fused", "reference"):
        for a, b in zip(value_and_gradient(partial(loss, impl=impl), z), true, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=5e-6, atol=atol)


@pytest.mark.parametrize("logit", [16.0, 20.0, 40.0, 80.0])
def test_quality_focal_of_a_saturated_logit_keeps_its_digits(logit):
    z, y = torch.tensor([[logit, -logit]]), torch.tensor([[1.0, 0.0]])
    for beta in (0.5, 1.0):
        loss = partial(focaldet.quality_focal_loss, targets=y, beta=beta)
        for impl in ("fused", "reference"):
            found = value_and_gradient(partial(loss, impl=impl), z)
            p = torch.tensor(-logit, dtype=torch.float64).sigmoid()  # of the untruth
            softplus = torch.log1p(p / (1 - p))
            grad = p**beta * (p + beta * (1 - p) * softplus)
            torch.testing.assert_close(found[0], (p**beta * softplus).expand(1, 2).float(), rtol=1e-5, atol=1e-37)
            torch.testing.assert_close(found[1], (grad * torch.tensor([[-1, 1]])).float(), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("name", WITH_KERNEL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_weights_and_a_normaliser_under_a_scaler(name, dtype):
    loss, z = WITH_KERNEL[name]
    shape = shape_of_losses(name)
    weight = (0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(3))).to(dtype)
    x = z.to(dtype).requires_grad_()
    options = {"weight": weight, "reduction": "sum", "normalizer": torch.tensor(500.0, dtype=dtype)}
    (loss(x, **options) * 2.0**14).backward()
    _, true = value_and_gradient(partial(loss, **options), x.double())
    spacing = 2.0**-10 if dtype == torch.float16 else 2.0**-7
    torch.testing.assert_close(x.grad.double(), true * 2.0**14, rtol=spacing, atol=2.0**-24)


@pytest.mark.parametrize("name", ALL)
def test_everything_on_the_meta_device(name):
    loss, z = ALL[name]

    def moved(x: object) -> object:
        if isinstance(x, SparseTargets):
            return SparseTargets(x.labels.to("meta"), x.quality.to("meta"))
        return x.to("meta") if isinstance(x, Tensor) else x

    if not isinstance(loss, partial):
        pytest.skip("closes over tensors of the CPU")
    loss = partial(loss.func, **{name: moved(x) for name, x in loss.keywords.items()})
    for reduction in ("none", "sum", "mean"):
        value, grad = value_and_gradient(partial(loss, reduction=reduction), z.to("meta"))
        assert value.device.type == grad.device.type == "meta"
        assert grad.shape == z.shape


@pytest.mark.parametrize("name", WITH_KERNEL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_and_device_change_nothing(name, dtype):
    loss, z = WITH_KERNEL[name]
    found, before = [], torch.get_default_dtype()
    for change in (False, True):
        torch.set_default_dtype(dtype if change else before)
        try:
            with torch.device("meta" if change else "cpu"):
                for impl in ("fused", "reference"):
                    found.append(
                        value_and_gradient(partial(loss, reduction="mean", weight=0.0 * 1 + 0.3, impl=impl), z)
                    )
        finally:
            torch.set_default_dtype(before)
    for a, b in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["focal, dense", "quality focal, dense", "varifocal, dense", "binary, dense"])
def test_gradients_of_targets_weights_and_normaliser(name):
    loss = WITH_KERNEL[name][0].func

    def total(z: Tensor, y: Tensor, weight: Tensor, normalizer: Tensor) -> Tensor:
        return loss(z, y, weight=weight, reduction="sum", normalizer=normalizer)

    inputs = [Z, 0.05 + 0.9 * SOFT, 0.5 + SOFT, torch.tensor(3.0)]
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = torch.autograd.grad(total(*leaves), leaves)
    transformed = torch.func.grad(total, argnums=(0, 1, 2, 3))(*inputs)
    wide = [x.double().requires_grad_() for x in inputs]
    for a, b, c in zip(found, transformed, torch.autograd.grad(total(*wide), wide), strict=True):
        torch.testing.assert_close(a.double(), c, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b.double(), c, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_labels_weights_alpha_and_normaliser():
    z, labels = torch.randn(3, 5, 4), torch.randint(-2, 4, (3, 5))
    weight, alpha, normalizer = torch.rand(3, 5, 1), torch.rand(3, 4), torch.tensor([1.0, 2.0, 3.0])

    def total(z: Tensor, labels: Tensor, weight: Tensor, alpha: Tensor, normalizer: Tensor) -> Tensor:
        return focaldet.sigmoid_focal_loss(
            z, SparseTargets(labels), alpha, weight=weight, reduction="sum", normalizer=normalizer
        )

    inputs = (z, labels, weight, alpha, normalizer)
    expected = torch.stack([total(*each) for each in zip(*inputs, strict=True)])
    torch.testing.assert_close(torch.func.vmap(total)(*inputs), expected)
