"""Logit of the product of two probabilities: of the class, and of the quality of the box.

With a and b for the two logits, p and q for their probabilities, ``1 / (p q) - 1 = e^-a (1 + e^-b) + e^-b``, so

    logit(p q) = -log(e^(softplus(-b) - a) + e^-b)
    d/da = (1 - p) / (1 - p q) = sigmoid(softplus(b) - a)         d/db = sigmoid(softplus(a) - b)

Probabilities are never formed, so no precision is lost near 0 and 1, and any loss on logits applies to the product.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus


class _Joint(torch.autograd.Function):
    """Saves only its inputs and computes the gradient by the closed forms above.

    Autograd would keep four more maps of the size of the class logits.
    """

    @staticmethod
    def forward(ctx: Any, class_logits: Tensor, quality_logits: Tensor) -> Tensor:
        ctx.save_for_backward(class_logits, quality_logits)
        a, b = class_logits.float(), quality_logits.float()
        joint = softplus(-b) - a
        return torch.logaddexp(joint, -b, out=joint).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        class_logits, quality_logits = ctx.saved_tensors
        a, b = class_logits.float(), quality_logits.float()
        of_quality = (softplus(a).sub_(b).sigmoid_().mul_(grad)).sum_to_size(b.shape)
        of_class = (softplus(b) - a).sigmoid_().mul_(grad)
        return of_class.to(class_logits.dtype), of_quality.to(quality_logits.dtype)


def joint_logits(class_logits: Float[Tensor, "*N"], quality_logits: Float[Tensor, "*#N"]) -> Float[Tensor, "*N"]:
    """The logit of ``sigmoid(class_logits) * sigmoid(quality_logits)``, float32.

    Args:
        class_logits: any shape.
        quality_logits: a shape that broadcasts to that of ``class_logits``.

    >>> joint_logits(torch.tensor(0.0), torch.tensor(0.0)).sigmoid()  # 1/2 * 1/2
    tensor(0.2500)
    """
    joint: Tensor = _Joint.apply(class_logits, quality_logits)
    return joint
