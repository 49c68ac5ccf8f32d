"""The sigmoid losses as one operator, from the plain formulas. The fused kernel has the same signature and results.

Axes: O and I are the flattened axes left and right of the class axis C. Rows ``(N, C)`` are ``(N, C, 1)`` and maps
``(B, A * C, H, W)`` are ``(B * A, C, H * W)``; neither needs a copy.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.functional.layout import pyramid_parts, see_pyramid
from focaldet.losses.cross_entropy import binary_cross_entropy
from focaldet.losses.focal import sigmoid_focal_loss
from focaldet.losses.ia_bce import iou_aware_bce_loss
from focaldet.losses.mal import matchability_aware_loss
from focaldet.losses.numerics import widen
from focaldet.losses.quality_focal import quality_focal_loss
from focaldet.losses.reduce import weigh_and_sum
from focaldet.losses.sparse import check_labels, dense_targets
from focaldet.losses.varifocal import varifocal_loss
from focaldet.structures import SparseTargets

Alpha = float | Tensor | None

FORMULAS: dict[str, Callable[[Tensor, Tensor, float, Alpha], Tensor]] = {
    "binary_cross_entropy": lambda z, y, gamma, alpha: binary_cross_entropy(z, y),
    "focal": lambda z, y, gamma, alpha: sigmoid_focal_loss(z, y, gamma=gamma, alpha=alpha),
    "quality_focal": lambda z, y, gamma, alpha: quality_focal_loss(z, y, beta=gamma),
    "varifocal": lambda z, y, gamma, alpha: varifocal_loss(z, y, gamma=gamma, alpha=1.0 if alpha is None else alpha),
    "matchability_aware": lambda z, y, gamma, alpha: matchability_aware_loss(z, y, gamma=gamma, alpha=alpha),
    "iou_aware_bce": lambda z, y, gamma, alpha: iou_aware_bce_loss(z, y, gamma=gamma, alpha=cast(float, alpha)),
}
"""Kind of loss -> its formula; ``gamma`` is the exponent, whatever the paper calls it."""

KINDS = tuple(FORMULAS)
"""The kinds. The kernels number them by their index here."""


def sigmoid_loss(
    logits: Float[Tensor, "O C I"],
    labels: Int64[Tensor, "O I"] | None,
    quality: Float[Tensor, "O I"] | None,
    targets: Float[Tensor, "O C I"] | None,
    weight: Float[Tensor, "_ _ _"] | None,
    class_alpha: Float[Tensor, " C"] | None,
    normalizer: Float[Tensor, ""] | None,
    kind: int,
    gamma: float,
    alpha: float | None,
    scale: float,
    reduce: bool,
) -> Tensor:
    """Loss of the given kind times ``scale / normalizer``, summed when ``reduce``.

    Either ``labels`` (with or without ``quality``) or ``targets`` is given. ``class_alpha`` overrides ``alpha``.
    float16 and bfloat16 are computed in float32, and so is the result.
    """
    z = logits.movedim(1, -1)
    z = widen(z)
    ignored: Tensor | None = None
    if labels is not None:
        check_labels(labels, z.shape[-1])
        y, ignored = dense_targets(SparseTargets(labels, quality), z.shape[-1], z.dtype)
        z = torch.where(ignored, 0.0, z)  # an ignored row has no loss and no gradient, even for NaN
    else:
        assert targets is not None
        y = targets.movedim(1, -1).to(z.dtype)
    if weight is not None:  # nor has an element of weight 0
        weight = weight.movedim(1, -1)
        silent = weight == 0 if ignored is None else (weight == 0) | ignored
        z, y = torch.where(silent, 0.0, z), torch.where(silent, 0.0, y)
        weight = torch.where(silent, 0.0, weight)
    loss = FORMULAS[KINDS[kind]](z, y, gamma, alpha if class_alpha is None else class_alpha.to(z.dtype))
    if ignored is not None:
        loss = torch.where(ignored, 0.0, loss)
    loss = weigh_and_sum(loss, weight, scale, normalizer, reduce)
    return loss if reduce else loss.movedim(-1, 1)


def sigmoid_pyramid_loss(
    maps: Sequence[Tensor],
    labels: Int64[Tensor, "B P"],
    quality: Float[Tensor, "B P"] | None,
    targets: None,
    weight: Float[Tensor, "_ _ _"] | None,
    *args: Any,
) -> Tensor:
    """The sum over the maps of a pyramid. The other arguments are those of `sigmoid_loss`, with ``reduce``."""
    parts = pyramid_parts(see_pyramid(maps, SparseTargets(labels, quality), weight))
    return torch.stack([sigmoid_loss(*part, *args) for part in parts]).sum()
