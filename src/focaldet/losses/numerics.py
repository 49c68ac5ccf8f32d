"""Numerics shared by the losses: sufficient precision, and a power that is safe at base zero."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; float64 stays.

    >>> widen(torch.ones(1, dtype=torch.bfloat16)).dtype, widen(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x if x.dtype == torch.float64 else x.float()


def safe_power(base: Tensor, exponent: float | Tensor) -> Tensor:
    """``base ** exponent`` for ``base >= 0``, whose derivatives are 0, not NaN, where ``base`` is 0.

    ``pow`` alone has the derivative ``e * 0 ** (e - 1)`` there: infinite for an exponent below 1, and NaN as soon as
    the inner derivative is 0, as it is for every saturated logit.

    >>> x = torch.tensor([0.0, 4.0], requires_grad=True)
    >>> safe_power(x, 0.5).sum().backward()
    >>> x.grad
    tensor([0.0000, 0.2500])
    """
    if not isinstance(exponent, Tensor) and exponent == 0:
        return torch.ones_like(base)
    # Not `base > 0`: NaN must stay NaN. For subnormal numbers, the derivative of a power overflows.
    zero = base < torch.finfo(base.dtype).tiny
    return torch.where(zero, 0.0, torch.where(zero, 1.0, base) ** exponent)
