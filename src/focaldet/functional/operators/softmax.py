"""The softmax losses as one operator, from the plain formulas. The fused kernel has the same signature and results.

Axes as in `operators.sigmoid`: logits ``(O, K, I)``; for each ``(O, I)`` one label, one position among the K bins, or
the logits of a teacher.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from focaldet.losses.distillation import distillation_loss
from focaldet.losses.distribution_focal import distribution_focal_loss
from focaldet.losses.focal import softmax_focal_loss
from focaldet.losses.numerics import widen
from focaldet.losses.reduce import silenced, weigh_and_sum
from focaldet.losses.sparse import check_labels, check_positions


def softmax_loss(
    logits: Float[Tensor, "O K I"],
    labels: Int64[Tensor, "O I"] | None,
    positions: Float[Tensor, "O I"] | None,
    teacher: Float[Tensor, "O K I"] | None,
    weight: Float[Tensor, "O I"] | None,
    class_alpha: Float[Tensor, " K"] | None,
    normalizer: Float[Tensor, ""] | None,
    gamma: float,
    label_smoothing: float,
    temperature: float,
    ignore_index: int,
    scale: float,
    reduce: bool,
) -> Tensor:
    """Focal cross entropy of ``labels``, distribution focal loss of ``positions``, or distillation from ``teacher``,
    times ``scale / normalizer``.

    Rows whose label is ``ignore_index`` have no loss and no gradient.
    """
    z = logits.movedim(1, -1)
    z = widen(z)
    if labels is not None:
        ignored = labels == ignore_index
        labels = torch.where(ignored, 0, labels)
        if weight is not None:
            ignored = ignored | (weight == 0)
            weight = torch.where(ignored, 0.0, weight)
        check_labels(labels, z.shape[-1], lowest=0)
        z = torch.where(ignored.unsqueeze(-1), 0.0, z)
        alpha = None if class_alpha is None else class_alpha.to(z.dtype)
        loss = softmax_focal_loss(z, labels, gamma=gamma, alpha=alpha, label_smoothing=label_smoothing)
        loss = torch.where(ignored, 0.0, loss)
    else:
        of_rows = None if weight is None else weight.unsqueeze(-1)
        z = silenced(z, of_rows)
        if teacher is not None:
            taught = silenced(teacher.movedim(1, -1).to(z.dtype), of_rows)
            loss = distillation_loss(z, taught, temperature=temperature)
        else:
            assert positions is not None
            check_positions(positions, z.shape[-1])
            loss = distribution_focal_loss(z, positions.to(z.dtype))
    return weigh_and_sum(loss, weight, scale, normalizer, reduce)
