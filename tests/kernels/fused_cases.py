"""The losses with a fused kernel, each with inputs, for tests that hold for all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

import focaldet
from focaldet import SparseTargets, kernels

needs_cpu_kernels = pytest.mark.skipif(
    kernels.available()["cpu"] is not None, reason=f"no C++ kernels: {kernels.available()['cpu']}"
)

EXPONENTS = (0, 0.25, 0.5, 1, 1.5, 2, 5)
EXTREME = (0, 1e-3, 0.4, 1, 5, 9.4, 18, 30, 60, 100, 1e4)


@dataclass(frozen=True)
class Case:
    """``loss(logits, impl=..., ...)`` and logits for it (float32)."""

    loss: Callable[..., Tensor]
    logits: Tensor


def logits(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Normal logits with extreme ones of both signs among them."""
    generator = torch.Generator().manual_seed(seed)
    z = 4 * torch.randn(rows, columns, generator=generator)
    extreme = torch.tensor(EXTREME)
    extreme = torch.cat([extreme, -extreme])
    z.view(-1)[: 3 * len(extreme)] = extreme.repeat(3)
    return z[torch.randperm(rows, generator=generator)]


def targets(rows: int, columns: int) -> dict[str, Tensor | SparseTargets]:
    generator = torch.Generator().manual_seed(1)
    soft = torch.rand(rows, columns, generator=generator)
    kind = torch.rand(rows, columns, generator=generator)
    soft[kind < 0.4] = 0
    soft[kind > 0.7] = 1
    labels = torch.randint(-2, columns, (rows,), generator=generator)
    quality = torch.rand(rows, generator=generator)
    quality[::5], quality[1::5] = 0, 1
    return {"dense": soft, "sparse": SparseTargets(labels, quality), "hard": SparseTargets(labels)}


def cases(rows: int = 120, columns: int = 7, exponents: tuple[float, ...] = EXPONENTS) -> dict[str, Case]:
    z = logits(rows, columns)
    found = {}
    for kind, target in targets(rows, columns).items():
        found[f"binary_cross_entropy-{kind}"] = Case(partial(focaldet.binary_cross_entropy, targets=target), z)
        for e in exponents:
            for name, loss in (
                ("sigmoid_focal", partial(focaldet.sigmoid_focal_loss, gamma=e)),
                ("quality_focal", partial(focaldet.quality_focal_loss, beta=e)),
                ("varifocal", partial(focaldet.varifocal_loss, gamma=e)),
                ("matchability_aware", partial(focaldet.matchability_aware_loss, gamma=e)),
                ("iou_aware_bce", partial(focaldet.iou_aware_bce_loss, alpha=0.4, gamma=e)),
            ):
                found[f"{name}-{kind}-{e}"] = Case(partial(loss, targets=target), z)
    by_class = torch.linspace(0.1, 0.9, columns)
    for kind, target in targets(rows, columns).items():
        for name, loss in (
            ("sigmoid_focal", focaldet.sigmoid_focal_loss),
            ("varifocal", focaldet.varifocal_loss),
            ("matchability_aware", focaldet.matchability_aware_loss),
        ):
            found[f"{name}-{kind}-alpha"] = Case(partial(loss, targets=target, alpha=by_class, weight=0.3), z)
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, columns, (rows,), generator=generator)
    labels[::7] = -100
    alpha = torch.linspace(0.5, 2, columns)
    for e in exponents:
        for smoothing in (0.0, 0.1):
            loss = partial(focaldet.softmax_focal_loss, labels=labels, gamma=e, alpha=alpha, label_smoothing=smoothing)
            found[f"softmax_focal-{e}-{smoothing}"] = Case(loss, z)
    positions = torch.rand(rows, generator=generator) * (columns - 1)
    positions[:4] = torch.tensor([0.0, columns - 1, 1, 2.5])
    found["distribution_focal"] = Case(partial(focaldet.distribution_focal_loss, targets=positions), z)
    for temperature in (1.0, 10.0):
        loss = partial(
            focaldet.distillation_loss, teacher_logits=logits(rows, columns, seed=3), temperature=temperature
        )
        found[f"distillation-{temperature:g}"] = Case(loss, z)
    boxes = 100 * torch.rand(rows, 4, generator=generator)
    boxes[:, 2:] = boxes[:, :2] + 50 * torch.rand(rows, 2, generator=generator) + 1
    other = boxes + 5 * torch.randn(rows, 4, generator=generator)
    other[:, 2:] = torch.maximum(other[:, 2:], other[:, :2])
    other[:5], other[5:10, 0], other[10:20] = boxes[:5], boxes[5:10, 0], other[10:20] + 300
    for name in ("giou", "iou", "diou", "ciou", "eiou", "siou"):
        found[name] = Case(partial(getattr(focaldet, f"{name}_loss"), target_boxes_xyxy=other), boxes)
    return found


def value_and_grad(
    case: Case, impl: str, dtype: torch.dtype = torch.float32, **kwargs: object
) -> tuple[Tensor, Tensor]:
    """Loss and derivative of its sum."""
    z = case.logits.detach().clone().to(dtype).requires_grad_()
    loss = case.loss(z, impl=impl, **kwargs)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    return loss.detach(), grad


def truth(case: Case, rounded_to: torch.dtype) -> tuple[Tensor, Tensor]:
    """The plain formula in float64, on logits that ``rounded_to`` can hold."""
    wide = Case(case.loss, case.logits.to(rounded_to).double())
    return value_and_grad(wide, "reference", torch.float64)
