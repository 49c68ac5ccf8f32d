"""The probability of two things at once, as a logit: of a class, and of a box of quality."""

import torch
from jaxtyping import Float
from torch import Tensor


def joint_logits(class_logits: Float[Tensor, "*N"], quality_logits: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """The logit of ``sigmoid(class_logits) * sigmoid(quality_logits)``; shapes broadcast.

    With a and b for the two, ``1 / (p q) - 1 = e^-a + e^-b + e^-(a + b)``: no probability is formed, so nothing is lost
    near 0 and 1, and every loss on logits can be used on the product.

    >>> joint_logits(torch.tensor(0.0), torch.tensor(0.0)).sigmoid()  # 1/2 * 1/2
    tensor(0.2500)
    """
    a, b = class_logits.float(), quality_logits.float()
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)
