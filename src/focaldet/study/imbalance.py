"""Row 11 of the story: how class loss and gradient are divided between background and objects, easy and hard.

Axes: N locations (anchors) that take part in the loss, C classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from focaldet.boxes.locations import Lattice, flatten_levels
from focaldet.data.batching import Batch
from focaldet.functional import sigmoid_focal_loss
from focaldet.methods.method import Method
from focaldet.methods.positives import find_positives
from focaldet.models.detector import DenseDetector
from focaldet.models.joint import joint_logits
from focaldet.records.study import Imbalance, Split
from focaldet.records.study_details import Curves, LossCurve
from focaldet.structures import BACKGROUND, IGNORED, Assignment, HeadOutputs, SparseTargets

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Values of gamma that are compared on the same outputs; 0 is cross entropy."""

FRACTIONS = (*(i / 20 for i in range(19)), 0.92, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0)
"""Fractions of the locations, easiest first, at which cumulative curves are evaluated. They rise at the right end."""


@dataclass(frozen=True)
class LocationLosses:
    """Class loss of each location, summed over the classes and not normalised.

    Args:
        is_object: ``(N,)`` True for positives, False for background.
        own_gradient: ``(N,)`` absolute derivative of the rung's own loss, summed over the classes.
        own_background, own_objects: the rung's own loss, summed over background and over positives.
        losses, gradients: gamma -> ``(N,)`` loss and gradient of the focal loss without alpha.
        own_gamma: the gamma with which the rung's own loss treats the background.
    """

    is_object: Bool[Tensor, " N"]
    own_gradient: Float[Tensor, " N"]
    own_background: float
    own_objects: float
    losses: dict[float, Float[Tensor, " N"]]
    gradients: dict[float, Float[Tensor, " N"]]
    own_gamma: float

    @property
    def num_pos(self) -> int:
        """Number of positives, at least 1: the normaliser of a detector's class loss."""
        return max(int(self.is_object.sum()), 1)


def location_losses(
    net: DenseDetector, method: Method, batches: Iterable[Batch], *, offset: float = 0.5
) -> LocationLosses:
    """Class losses of a network on some photos, in its current mode (training or evaluation)."""
    parts = [_of_batch(net, method, batch, offset) for batch in batches]
    return LocationLosses(
        is_object=torch.cat([part.is_object for part in parts]),
        own_gradient=torch.cat([part.own_gradient for part in parts]),
        own_background=sum(part.own_background for part in parts),
        own_objects=sum(part.own_objects for part in parts),
        losses={gamma: torch.cat([part.losses[gamma] for part in parts]) for gamma in parts[0].losses},
        gradients={gamma: torch.cat([part.gradients[gamma] for part in parts]) for gamma in parts[0].losses},
        own_gamma=parts[0].own_gamma,
    )


def _of_batch(net: DenseDetector, method: Method, batch: Batch, offset: float) -> LocationLosses:
    images, valid_sizes, truth = batch
    with torch.no_grad():
        outputs = net(images)
    outputs = replace(outputs, class_logits=[logits.float().requires_grad_() for logits in outputs.class_logits])
    lattice = Lattice(outputs.level_shapes, net.strides, offset)
    assignment, locations = method.assign(truth, lattice, valid_sizes), method.locations(lattice)
    matched = assignment.matched_gt

    def class_loss(chosen: Assignment) -> Tensor:
        """The method's own loss, multiplied by its number of positives again."""
        positives = find_positives(truth, chosen, locations)
        return method.losses(outputs, chosen, positives)["class"] * max(positives.gt.numel(), 1)

    own = class_loss(assignment)
    gradients = flatten_levels(torch.autograd.grad(own, outputs.class_logits), net.num_classes)
    # Only background: the positives are marked as ignored.
    background = float(class_loss(Assignment(torch.where(matched >= 0, IGNORED, matched))).detach())
    part = matched != IGNORED
    labels = (
        torch.where(matched >= 0, truth.labels[matched.clamp(min=0)], BACKGROUND) if truth.labels.numel() else matched
    )
    logits, labels = score_logits(outputs, method, net.num_classes)[part].detach(), labels[part]
    # The exponent on the background.
    own_gamma = {
        "bce": 0.0,
        "focal": method.gamma,
        "equalized_focal": method.gamma,
        "quality_focal": method.beta,
        "equalized_quality": method.beta,
        "varifocal": 2.0,
        "mal": 1.5,
        "ia_bce": 2.0,
    }[method.class_loss]
    by_gamma = {gamma: focal_by_location(logits, labels, gamma) for gamma in {*GAMMAS, own_gamma}}
    return LocationLosses(
        is_object=labels != BACKGROUND,
        own_gradient=gradients.abs().sum(dim=-1)[part],
        own_background=background,
        own_objects=float(own.detach()) - background,
        losses={gamma: pair[0] for gamma, pair in by_gamma.items()},
        gradients={gamma: pair[1] for gamma, pair in by_gamma.items()},
        own_gamma=own_gamma,
    )


def score_logits(outputs: HeadOutputs, method: Method, num_classes: int) -> Float[Tensor, "B P C"]:
    """The logits that enter the class loss; for GFLv2, the logits of class probability times quality."""
    logits = flatten_levels(outputs.class_logits, num_classes)
    if method.quality_branch != "distribution" or outputs.quality_logits is None:
        return logits
    return joint_logits(logits, flatten_levels(outputs.quality_logits, 1))


def focal_by_location(
    logits: Float[Tensor, "N C"], labels: Tensor, gamma: float
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Focal loss without alpha for each location, and the sum of its absolute derivatives.

    >>> loss, gradient = focal_by_location(torch.zeros(1, 2), torch.tensor([0]), 0.0)
    >>> loss, gradient  # cross entropy: log 2 and a half, twice
    (tensor([1.3863]), tensor([1.]))
    """
    z = logits.clone().requires_grad_()
    losses = sigmoid_focal_loss(z, SparseTargets(labels), None, gamma).sum(dim=-1)
    (gradients,) = torch.autograd.grad(losses.sum(), z)
    return losses.detach(), gradients.abs().sum(dim=-1)


def imbalance(locations: LocationLosses) -> Imbalance:
    """Shares of background and objects in the rung's own loss."""
    background = ~locations.is_object
    gradient = _two_sums(locations.own_gradient, locations.is_object)
    return Imbalance(
        background_sites=int(background.sum()),
        object_sites=int(locations.is_object.sum()),
        own=_split((locations.own_background, locations.own_objects), gradient, locations.num_pos),
        hardest_percent=hardest_share(locations.losses[locations.own_gamma][background], 0.01),
    )


def curves(locations: LocationLosses) -> Curves:
    """Cumulative cross entropy and focal losses on these outputs (focal loss paper, figure 4)."""
    return Curves(fractions=list(FRACTIONS), losses=[_loss_curve(locations, gamma) for gamma in GAMMAS])


def _loss_curve(locations: LocationLosses, gamma: float) -> LossCurve:
    losses, is_object = locations.losses[gamma], locations.is_object
    sums = _two_sums(losses, is_object), _two_sums(locations.gradients[gamma], is_object)
    return LossCurve(
        gamma=gamma,
        split=_split(*sums, locations.num_pos),
        background=cumulative(losses[~is_object], FRACTIONS),
        objects=cumulative(losses[is_object], FRACTIONS),
    )


def _two_sums(values: Tensor, is_object: Tensor) -> tuple[float, float]:
    return float(values[~is_object].double().sum()), float(values[is_object].double().sum())


def _split(loss: tuple[float, float], gradient: tuple[float, float], num_pos: int) -> Split:
    """Shares and normalised losses from (background, objects) sums of loss and gradient."""
    return Split(
        loss_share=_share(*loss),
        gradient_share=_share(*gradient),
        background_loss=_rounded(loss[0] / num_pos),
        object_loss=_rounded(loss[1] / num_pos),
    )


def _share(part: float, rest: float) -> float | None:
    return _rounded(part / (part + rest)) if part + rest > 0 else None


def cumulative(losses: Float[Tensor, " N"], fractions: Sequence[float]) -> list[float] | None:
    """Share of the loss in each easiest fraction of the locations; ``None`` without locations or without loss.

    >>> cumulative(torch.tensor([3.0, 0.0, 1.0, 0.0]), [0.5, 0.75, 1.0])
    [0.0, 0.25, 1.0]
    """
    sums = np.concatenate([[0.0], np.sort(losses.double().numpy()).cumsum()])
    if not sums[-1] > 0:
        return None
    read = np.interp(np.asarray(fractions) * len(losses), np.arange(len(sums)), sums / sums[-1])
    return [_rounded(value) for value in read.tolist()]


def hardest_share(losses: Float[Tensor, " N"], fraction: float) -> float | None:
    """Share of the loss in the hardest fraction of the locations.

    >>> hardest_share(torch.tensor([1.0, 1.0, 2.0, 4.0]), 0.25)
    0.5
    """
    easy = cumulative(losses, [1 - fraction])
    return None if easy is None else _rounded(1 - easy[0])


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
