"""The public losses: check, choose an implementation, reduce.

Tensors come first, everything else is keyword-only (where the field has no other convention). Every loss takes

- ``weight``: broadcast against the losses; no gradient flows to it from a fused kernel, so one that requires a
  gradient takes the reference;
- ``reduction``: ``"none"``, ``"sum"`` or ``"mean"`` (over the entries that are not ignored);
- ``normalizer``: a number or 0-d tensor that divides a sum, in a detector the number of positives;
- ``impl``: ``"auto"`` uses the fused kernel if the device and dtype have one (`focaldet.kernels.available`), else the
  reference; ``"fused"`` raises an error if they have none; ``"reference"`` is the plain formula.

float16 and bfloat16 logits are computed in float32, and their losses are float32; gradients have the logits' dtype.
"""

from focaldet.functional.boxes import ciou_loss, diou_loss, eiou_loss, giou_loss, iou_loss, siou_loss
from focaldet.functional.equalized import equalized_focal_loss, equalized_quality_loss
from focaldet.functional.modules import (
    BinaryCrossEntropy,
    CIoULoss,
    CrossEntropy,
    DIoULoss,
    DistillationLoss,
    DistributionFocalLoss,
    EIoULoss,
    GeneralizedFocalLoss,
    GIoULoss,
    IoUAwareBCE,
    IoULoss,
    MatchabilityAwareLoss,
    QuadraticLoss,
    QualityFocalLoss,
    SigmoidFocalLoss,
    SIoULoss,
    SoftmaxFocalLoss,
    VarifocalLoss,
)
from focaldet.functional.sigmoid import (
    binary_cross_entropy,
    generalized_focal_loss,
    iou_aware_bce_loss,
    matchability_aware_loss,
    quadratic_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from focaldet.functional.softmax import (
    cross_entropy,
    distillation_loss,
    distribution_focal_loss,
    softmax_focal_loss,
)

__all__ = [
    "quadratic_loss",
    "binary_cross_entropy",
    "cross_entropy",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
    "quality_focal_loss",
    "distribution_focal_loss",
    "distillation_loss",
    "generalized_focal_loss",
    "varifocal_loss",
    "matchability_aware_loss",
    "iou_aware_bce_loss",
    "equalized_focal_loss",
    "equalized_quality_loss",
    "giou_loss",
    "iou_loss",
    "diou_loss",
    "ciou_loss",
    "eiou_loss",
    "siou_loss",
    "QuadraticLoss",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "QualityFocalLoss",
    "DistributionFocalLoss",
    "DistillationLoss",
    "GeneralizedFocalLoss",
    "VarifocalLoss",
    "MatchabilityAwareLoss",
    "IoUAwareBCE",
    "GIoULoss",
    "IoULoss",
    "DIoULoss",
    "CIoULoss",
    "EIoULoss",
    "SIoULoss",
]
