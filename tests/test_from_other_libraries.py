"""Calls in other libraries, from the table of docs/losses.md: both calls of a row run and give the same values and
gradients.

torch's and torchvision's calls are the real ones. Calls of fvcore, mmdetection and kornia are written out below from
their formulas, with their names, order of arguments, defaults and epsilons.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

import focaldet
from focaldet import SparseTargets

PAGE = Path(__file__).parents[1] / "docs" / "losses.md"
SECTION = PAGE.read_text(encoding="utf-8").split("## From other libraries\n", 1)[1].split("\n## ", 1)[0]
ROWS = re.findall(r"^\| (\w*) ?`([^`]+)`[^|]*\| `([^`]+)`[^|]*\|$", SECTION, re.M)
"""Library where the call does not name it, its call, and ours."""

NUM_CLASSES = 5
BACKGROUND = NUM_CLASSES
"""mmdetection's label of it."""


def reduced(loss: Tensor, reduction: str) -> Tensor:
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]


def focal(z: Tensor, y: Tensor, alpha: float, gamma: float) -> Tensor:
    p = torch.sigmoid(z)
    p_t = torch.where(y == 1, p, 1 - p)
    loss = -((1 - p_t) ** gamma) * p_t.log()
    return loss if alpha < 0 else torch.where(y == 1, alpha, 1 - alpha) * loss


def giou(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """1 - GIoU, pair by pair."""
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    intersection = sides.prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - intersection
    return 1 - intersection / (union + eps) + (hull - union) / (hull + eps)


class OfMmdet:
    """A loss module: mmdetection divides the weighed sum by ``avg_factor`` and float32's epsilon."""

    def __init__(self, loss: Callable[..., Tensor], loss_weight: float = 1.0) -> None:
        self.loss, self.loss_weight = loss, loss_weight

    def __call__(self, z: Tensor, target: Any, weight: Tensor | None = None, avg_factor: float | None = None) -> Tensor:
        loss = self.loss(z, target)
        if weight is not None:
            loss = loss * weight.reshape(weight.shape + (1,) * (loss.ndim - weight.ndim))
        if avg_factor is None:
            return self.loss_weight * loss.mean()
        return self.loss_weight * loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, NUM_CLASSES + 1)[:, :NUM_CLASSES].float()


def mmdet_quality_focal(z: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    """Of each row: its sum over the classes."""
    labels, score = target
    y = one_hot(labels) * score[:, None]
    p = torch.sigmoid(z)
    return ((y - p).abs() ** 2 * -(y * p.log() + (1 - y) * (1 - p).log())).sum(1)


def mmdet_distribution_focal(z: Tensor, y: Tensor) -> Tensor:
    rows, left = torch.arange(len(y)), y.long()
    log_probs = z - z.exp().sum(1, keepdim=True).log()
    return -((left + 1 - y) * log_probs[rows, left] + (y - left) * log_probs[rows, left + 1])


def mmdet_varifocal(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    weight = torch.where(y > 0, y, 0.75 * p**2)
    return weight * -(y * p.log() + (1 - y) * (1 - p).log())


def mmdet_distillation(z: Tensor, t: Tensor, temperature: float) -> Tensor:
    """Of each row: its mean over the classes."""
    target = F.softmax(t / temperature, dim=1).detach()
    return F.kl_div(F.log_softmax(z / temperature, dim=1), target, reduction="none").mean(1) * temperature**2


def kornia_focal(z: Tensor, labels: Tensor, alpha: None, gamma: float) -> Tensor:
    """``(N, C, H, W)``: 0 but for the label's class."""
    p = torch.exp(z) / torch.exp(z).sum(1, keepdim=True)
    return F.one_hot(labels, z.shape[1]).movedim(-1, 1) * -((1 - p) ** gamma) * p.log()


PEERS = {
    "torchvision": torchvision,
    "F": F,
    "fvcore": SimpleNamespace(
        nn=SimpleNamespace(
            sigmoid_focal_loss=lambda z, y, alpha=-1, gamma=2, reduction="none": reduced(
                focal(z, y, alpha, gamma), reduction
            ),
            giou_loss=lambda a, b, reduction="none", eps=1e-7: reduced(giou(a, b, eps), reduction),
        )
    ),
    "FocalLoss": partial(OfMmdet, lambda z, labels: focal(z, one_hot(labels), 0.25, 2)),
    "QualityFocalLoss": partial(OfMmdet, mmdet_quality_focal),
    "DistributionFocalLoss": partial(OfMmdet, mmdet_distribution_focal),
    "KnowledgeDistillationKLDivLoss": lambda T: OfMmdet(partial(mmdet_distillation, temperature=T)),
    "VarifocalLoss": partial(OfMmdet, mmdet_varifocal),
    "GIoULoss": partial(OfMmdet, partial(giou, eps=1e-6)),
    "focal_loss": kornia_focal,
    "binary_focal_loss_with_logits": lambda z, y, alpha, gamma: focal(z, y, alpha, gamma),
}
OURS = {name: getattr(focaldet, name) for name in focaldet.__all__} | {"focaldet": focaldet}


def inputs_of(call: str) -> dict[str, Any]:
    """Numbers for the letters of a call; some are other than 0 or 1 only where the peer takes that."""
    generator = torch.Generator().manual_seed(0)
    rand = partial(torch.rand, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (9,), generator=generator)
    boxes = [torch.cat([x[:, :2], x[:, :2] + 0.2 + x[:, 2:]], 1) for x in (rand(9, 4), rand(9, 4))]
    found = {
        "z": 3 * torch.randn(9, NUM_CLASSES, generator=generator),
        "y": (rand(9, NUM_CLASSES) < 0.3).float(),
        "w": 0.1 + rand(9),
        "labels": labels,
        "score": rand(9),
        "n": 4.0,
        "e": 0.1,
        "t": 3 * torch.randn(9, NUM_CLASSES, generator=generator),
        "T": 4.0,
        "a": boxes[0],
        "b": boxes[1],
    }
    if call.startswith(("FocalLoss", "QualityFocal")):
        found["labels"] = torch.where(torch.arange(9) % 3 == 0, BACKGROUND, labels)
    elif call.startswith("DistributionFocal"):
        found["y"] = (NUM_CLASSES - 1.01) * rand(9)
    elif call.startswith("VarifocalLoss"):
        found["y"], found["w"] = found["y"] * rand(9, NUM_CLASSES), rand(9, NUM_CLASSES)
    elif call.startswith("F.binary"):
        found["y"], found["w"] = rand(9, NUM_CLASSES), rand(9, NUM_CLASSES)
    elif call.startswith("F.cross_entropy"):
        found["w"] = 0.1 + rand(NUM_CLASSES)
    elif call.startswith("focal_loss"):
        found["z"] = torch.randn(2, NUM_CLASSES, 3, 4, generator=generator)
        found["labels"] = torch.randint(0, NUM_CLASSES, (2, 3, 4), generator=generator)
    return found


def value_and_gradient(call: str, scope: dict[str, Any], inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Of the logits or boxes, each element of the loss with its own weight."""
    leaf = "a" if re.search(r"\(a\b", call) else "z"
    x = inputs[leaf].clone().requires_grad_()
    value = eval(call, scope | inputs | {leaf: x})
    weights = torch.linspace(1, 2, value.numel()).reshape(value.shape)
    (grad,) = torch.autograd.grad((value * weights).sum(), x)
    return value.detach(), grad


def test_every_row_of_the_table_is_read():
    lines = [line for line in SECTION.splitlines() if line.startswith("|")]
    assert len(ROWS) == len(lines) - 2 >= 14  # but for its head
    assert {library for library, _, _ in ROWS} == {"", "mmdet", "kornia"}


@pytest.mark.parametrize(("theirs", "ours"), [(theirs, ours) for _, theirs, ours in ROWS])
def test_a_row_has_two_calls_with_the_same_value_and_gradient(theirs, ours):
    inputs = inputs_of(theirs)
    expected = value_and_gradient(theirs, PEERS, inputs)
    if "SparseTargets" in ours:
        inputs["labels"] = torch.where(inputs["labels"] == BACKGROUND, focaldet.BACKGROUND, inputs["labels"])
    found = value_and_gradient(ours, OURS, inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


def test_what_is_ignored_here_weighs_0_in_mmdetection():
    inputs = inputs_of("FocalLoss")
    inputs["w"][:2] = 0
    call = next(theirs for _, theirs, _ in ROWS if theirs.startswith("FocalLoss"))
    expected = value_and_gradient(call, PEERS, inputs)
    labels = torch.where(inputs["labels"] == BACKGROUND, focaldet.BACKGROUND, inputs["labels"])
    labels[:2] = focaldet.IGNORED
    weight = inputs["w"][:, None] + 1 * (labels == focaldet.IGNORED)[:, None]
    loss = partial(focaldet.sigmoid_focal_loss, targets=SparseTargets(labels), weight=weight)
    z = inputs["z"].clone().requires_grad_()
    value = loss(z, reduction="sum", normalizer=inputs["n"])
    (grad,) = torch.autograd.grad(value, z)
    torch.testing.assert_close((value.detach(), grad), expected, rtol=2e-5, atol=1e-6)
