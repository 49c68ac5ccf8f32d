"""The losses as modules: options are fixed once, tensors come with each call.

>>> import torch
>>> criterion = QualityFocalLoss(beta=2.0, reduction="sum")
>>> criterion(torch.zeros(2, 1), torch.tensor([[1.0], [0.5]]), normalizer=2)
tensor(0.0866)
"""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from focaldet.checks import near_name
from focaldet.functional import boxes, sigmoid, softmax
from focaldet.functional.arguments import OPTION_CHECKS
from focaldet.losses.reduce import check_reduction

GIVEN_WITH_THE_CALL = ("weight", "normalizer")


class LossModule(torch.nn.Module):
    """A loss function with its options.

    Args:
        options: arguments of the function, except its tensors, ``weight`` and ``normalizer``, which come with the call.
            A tensor (α of each class) moves with the module and is part of its state; a parameter is trained.
    """

    function: ClassVar[Callable[..., Tensor]]
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        options = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY)
            for parameter in signature(cls.function).parameters.values()
            if parameter.default is not Parameter.empty and parameter.name not in GIVEN_WITH_THE_CALL
        ]
        cls.__signature__ = Signature(options)  # which help() and editors show

    def __init__(self, **options: Any) -> None:
        super().__init__()
        defaults = {option.name: option.default for option in self.__signature__.parameters.values()}
        for name in options:
            if name not in defaults:
                raise TypeError(f"{type(self).__name__}: unknown option {name!r} ({near_name(name, defaults)})")
        options = defaults | options
        check_reduction(options["reduction"], None)
        self.numbers = {name: x for name, x in options.items() if not isinstance(x, Tensor)}
        self.tensors = [name for name, x in options.items() if isinstance(x, Tensor)]
        for name, value in self.numbers.items():
            if name in OPTION_CHECKS and value is not None:
                OPTION_CHECKS[name](value)
        for name in self.tensors:
            if name in OPTION_CHECKS:
                OPTION_CHECKS[name](options[name])
            if isinstance(options[name], torch.nn.Parameter):
                self.register_parameter(name, options[name])
            else:
                self.register_buffer(name, options[name])

    def forward(self, *tensors: Any, weight: float | Tensor | None = None, normalizer: Any = None) -> Tensor:
        options = {**self.numbers, **{name: getattr(self, name) for name in self.tensors}}
        return type(self).function(*tensors, weight=weight, normalizer=normalizer, **options)

    def extra_repr(self) -> str:
        return ", ".join([f"{name}={x!r}" for name, x in self.numbers.items()] + self.tensors)


class QuadraticLoss(LossModule):
    """`quadratic_loss` as a module."""

    function = staticmethod(sigmoid.quadratic_loss)


class BinaryCrossEntropy(LossModule):
    """`binary_cross_entropy` as a module."""

    function = staticmethod(sigmoid.binary_cross_entropy)


class SigmoidFocalLoss(LossModule):
    """`sigmoid_focal_loss` as a module."""

    function = staticmethod(sigmoid.sigmoid_focal_loss)


class QualityFocalLoss(LossModule):
    """`quality_focal_loss` as a module."""

    function = staticmethod(sigmoid.quality_focal_loss)


class VarifocalLoss(LossModule):
    """`varifocal_loss` as a module."""

    function = staticmethod(sigmoid.varifocal_loss)


class MatchabilityAwareLoss(LossModule):
    """`matchability_aware_loss` as a module."""

    function = staticmethod(sigmoid.matchability_aware_loss)


class IoUAwareBCE(LossModule):
    """`iou_aware_bce_loss` as a module."""

    function = staticmethod(sigmoid.iou_aware_bce_loss)


class GeneralizedFocalLoss(LossModule):
    """`generalized_focal_loss` as a module."""

    function = staticmethod(sigmoid.generalized_focal_loss)


class CrossEntropy(LossModule):
    """`cross_entropy` as a module."""

    function = staticmethod(softmax.cross_entropy)


class SoftmaxFocalLoss(LossModule):
    """`softmax_focal_loss` as a module."""

    function = staticmethod(softmax.softmax_focal_loss)


class DistributionFocalLoss(LossModule):
    """`distribution_focal_loss` as a module."""

    function = staticmethod(softmax.distribution_focal_loss)


class DistillationLoss(LossModule):
    """`distillation_loss` as a module."""

    function = staticmethod(softmax.distillation_loss)


class GIoULoss(LossModule):
    """`giou_loss` as a module."""

    function = staticmethod(boxes.giou_loss)


class IoULoss(LossModule):
    """`iou_loss` as a module."""

    function = staticmethod(boxes.iou_loss)


class DIoULoss(LossModule):
    """`diou_loss` as a module."""

    function = staticmethod(boxes.diou_loss)


class CIoULoss(LossModule):
    """`ciou_loss` as a module."""

    function = staticmethod(boxes.ciou_loss)


class EIoULoss(LossModule):
    """`eiou_loss` as a module."""

    function = staticmethod(boxes.eiou_loss)


class SIoULoss(LossModule):
    """`siou_loss` as a module."""

    function = staticmethod(boxes.siou_loss)
