"""The recipe of the optimiser: learning rate and weight decay of each parameter, schedule, and moving average."""

import math

from torch import nn

FINAL_LR = 0.01
"""Learning rate at the end of the cosine, as a share of the peak."""


def lr_factor(progress: float, step: int, warmup_steps: int) -> float:
    """Factor on the peak learning rate at a step: linear warm-up times a cosine from 1 to ``FINAL_LR``.

    Args:
        progress: completed share of the run; from 1 on, the cosine stays at its final value.
        step: number of steps before this one.
        warmup_steps: the warm-up's last step has the full factor.

    >>> round(lr_factor(0.0, 4, 10), 6), lr_factor(0.0, 10, 10), round(lr_factor(1.0, 100, 10), 6)
    (0.5, 1.0, 0.01)
    """
    cosine = FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / max(warmup_steps, 1)) * cosine


def parameter_groups(
    net: nn.Module, *, lr: float, batch: int, backbone_lr: float, weight_decay: float
) -> dict[tuple[float, float], list[nn.Parameter]]:
    """Group the parameters by (peak learning rate, weight decay), in the order of the first parameter of each group.

    Args:
        lr: peak learning rate at batch 8; it scales with the square root of the batch.
        batch: images per step, over all processes.
        backbone_lr: learning-rate multiplier for the backbone.
        weight_decay: weight decay of weights with more than one axis; biases and the factors of norms have none.
    """
    peak = lr * math.sqrt(batch / 8)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        own_lr = peak * (backbone_lr if name.startswith("backbone.") else 1.0)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((own_lr, decay), []).append(parameter)
    return groups


def ema_decay(step: int, decay: float) -> float:
    """Decay of the moving average at a step: a short memory at first, ``decay`` later.

    Args:
        step: number of updates so far.
        decay: largest decay.

    >>> round(ema_decay(1, 0.995), 4), ema_decay(10_000, 0.995)
    (0.1818, 0.995)
    """
    return min(decay, (1 + step) / (10 + step))
