"""The neuron at the start of the story, and the loss curves, computed with the public losses in about a second."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from focaldet.functional import (
    binary_cross_entropy,
    distribution_focal_loss,
    quadratic_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
)
from focaldet.records.study import FORMAT
from focaldet.records.study_details import DistributionCurve, FamilyCurve, Neuron, NeuronCurve

Loss = Callable[..., Tensor]

COSTS: dict[str, Loss] = {"quadratic": quadratic_loss, "cross entropy": binary_cross_entropy}
"""The costs that train the neuron."""

STARTS = {"near": (0.6, 0.9), "saturated": (2.0, 2.0)}
"""Initial weight and bias; the output is .82 and .98, the target 0."""

LEARNING_RATE, STEPS = 0.15, 300
"""The same for both costs; otherwise the curves would show the effect of the learning rate."""

INPUT, TARGET = 1.0, 0.0

HARD, SOFT = (1.0, 0.0), (0.0, 0.5, 0.8, 1.0)

FAMILY: list[tuple[str, Loss, tuple[float, ...], dict[str, float | None]]] = [
    ("quadratic", quadratic_loss, HARD, {}),
    ("cross entropy", binary_cross_entropy, HARD, {}),
    ("focal, gamma 1/2", sigmoid_focal_loss, HARD, {"alpha": None, "gamma": 0.5}),
    ("focal, gamma 1", sigmoid_focal_loss, HARD, {"alpha": None, "gamma": 1.0}),
    ("focal, gamma 2", sigmoid_focal_loss, HARD, {"alpha": None, "gamma": 2.0}),
    ("focal, gamma 5", sigmoid_focal_loss, HARD, {"alpha": None, "gamma": 5.0}),
    ("focal, gamma 2, alpha 1/4", sigmoid_focal_loss, HARD, {"alpha": 0.25, "gamma": 2.0}),
    ("quality focal, beta 1", quality_focal_loss, SOFT, {"beta": 1.0}),
    ("quality focal, beta 2", quality_focal_loss, SOFT, {"beta": 2.0}),
]
"""(title, function, targets, parameters)."""

LABELS = (0.2, 0.5, 0.9)
"""Labels for distribution focal loss, between bin 0 and bin 1."""


@cache
def neuron_numbers() -> Neuron:
    """The contents of ``neuron.json``, computed once. Do not modify the result."""
    logits = torch.linspace(-6, 6, 121, dtype=torch.float64)
    return Neuron(
        format=FORMAT,
        curves=[teach(cost, start) for start in STARTS for cost in COSTS],
        logits=_numbers(logits),
        family=[
            family_curve(logits, title, loss, target, parameters)
            for title, loss, targets, parameters in FAMILY
            for target in targets
        ],
        distribution=[distribution_curve(label) for label in LABELS],
    )


def teach(cost: str, start: str) -> NeuronCurve:
    """Train the weight and bias of one neuron by gradient descent on one sample.

    >>> teach("quadratic", "saturated")["steps_to_half"] > 10 * teach("cross entropy", "saturated")["steps_to_half"]
    True
    """
    loss, (weight, bias) = COSTS[cost], STARTS[start]
    w, b = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (weight, bias))
    x, y = (torch.tensor([value], dtype=torch.float64) for value in (INPUT, TARGET))
    values, outputs, gradients = [], [], []
    for _ in range(STEPS):
        z = w * x + b
        value = loss(z, y, reduction="sum")
        slopes = torch.autograd.grad(value, (w, b))
        values.append(value.detach())
        outputs.append(z.detach().sigmoid()[0])
        gradients.append(slopes[0][0])
        with torch.no_grad():
            for parameter, slope in zip((w, b), slopes, strict=True):
                parameter -= LEARNING_RATE * slope
    halfway = abs(float(outputs[0]) - TARGET) / 2
    return NeuronCurve(
        cost=cost,
        start=start,
        weight=weight,
        bias=bias,
        learning_rate=LEARNING_RATE,
        x=INPUT,
        y=TARGET,
        cost_values=_numbers(torch.stack(values)),
        outputs=_numbers(torch.stack(outputs)),
        gradients=_numbers(torch.stack(gradients)),
        steps_to_half=next((i for i, a in enumerate(outputs) if abs(float(a) - TARGET) < halfway), None),
    )


def family_curve(logits: Tensor, title: str, loss: Loss, target: float, parameters: dict[str, Any]) -> FamilyCurve:
    """A loss and its derivative at some logits ``(N,)``."""
    z = logits.clone().requires_grad_()
    values = loss(z, torch.full_like(z, target), **parameters)
    (gradients,) = torch.autograd.grad(values.sum(), z)
    return FamilyCurve(
        loss=loss.__name__,
        title=title,
        target=target,
        parameters=parameters,
        values=_numbers(values.detach()),
        gradients=_numbers(gradients),
    )


def distribution_curve(label: float) -> DistributionCurve:
    """Distribution focal loss of two bins, as a function of the probability of the second."""
    probabilities = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    logits = torch.stack([(1 - probabilities).log(), probabilities.log()], dim=-1).requires_grad_()
    values = distribution_focal_loss(logits, torch.full_like(probabilities, label))
    (gradients,) = torch.autograd.grad(values.sum(), logits)
    return DistributionCurve(
        label=label,
        probabilities=_numbers(probabilities),
        values=_numbers(values.detach()),
        gradients=_numbers(gradients[:, 1]),
        minimum_at=float(f"{float(probabilities[values.argmin()]):.6g}"),
    )


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
