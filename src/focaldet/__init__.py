"""Losses of dense object detection, and detectors trained with them.

Public names are loaded on first use, so that ``focaldet --help`` and everything without torch start at once.
"""

import os
from importlib import import_module

# onnxruntime reports its use unless this is set before loading it. focaldet reports nothing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0"

_PUBLIC = {
    "BACKGROUND": "focaldet.structures",
    "IGNORED": "focaldet.structures",
    "SparseTargets": "focaldet.structures",
    "Detections": "focaldet.structures",
    "InputError": "focaldet.checks",
    "Detector": "focaldet.engine.detector",
    "to_supervision": "focaldet.engine.conversions",
    "from_supervision": "focaldet.engine.conversions",
    "to_fiftyone": "focaldet.engine.conversions",
    "from_fiftyone": "focaldet.engine.conversions",
    "detector": "focaldet.engine.trainable",
    "TrainConfig": "focaldet.engine.config",
    "Run": "focaldet.run",
    "train": "focaldet.run",
    "quadratic_loss": "focaldet.functional",
    "binary_cross_entropy": "focaldet.functional",
    "cross_entropy": "focaldet.functional",
    "sigmoid_focal_loss": "focaldet.functional",
    "softmax_focal_loss": "focaldet.functional",
    "quality_focal_loss": "focaldet.functional",
    "distribution_focal_loss": "focaldet.functional",
    "distillation_loss": "focaldet.functional",
    "generalized_focal_loss": "focaldet.functional",
    "varifocal_loss": "focaldet.functional",
    "matchability_aware_loss": "focaldet.functional",
    "iou_aware_bce_loss": "focaldet.functional",
    "equalized_focal_loss": "focaldet.functional",
    "equalized_quality_loss": "focaldet.functional",
    "giou_loss": "focaldet.functional",
    "iou_loss": "focaldet.functional",
    "diou_loss": "focaldet.functional",
    "ciou_loss": "focaldet.functional",
    "eiou_loss": "focaldet.functional",
    "siou_loss": "focaldet.functional",
    "QuadraticLoss": "focaldet.functional",
    "BinaryCrossEntropy": "focaldet.functional",
    "CrossEntropy": "focaldet.functional",
    "SigmoidFocalLoss": "focaldet.functional",
    "SoftmaxFocalLoss": "focaldet.functional",
    "QualityFocalLoss": "focaldet.functional",
    "DistributionFocalLoss": "focaldet.functional",
    "DistillationLoss": "focaldet.functional",
    "GeneralizedFocalLoss": "focaldet.functional",
    "VarifocalLoss": "focaldet.functional",
    "MatchabilityAwareLoss": "focaldet.functional",
    "IoUAwareBCE": "focaldet.functional",
    "GIoULoss": "focaldet.functional",
    "IoULoss": "focaldet.functional",
    "DIoULoss": "focaldet.functional",
    "CIoULoss": "focaldet.functional",
    "EIoULoss": "focaldet.functional",
    "SIoULoss": "focaldet.functional",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'focaldet' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
