"""The moving average of a network's weights, which is evaluated and saved (docs/adr/0004)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from focaldet.engine.optimizer import ema_decay
from focaldet.models.detector import DenseDetector


class MovingAverage(nn.Module):
    """A copy of a network whose weights and buffers follow those of the network.

    Uses the names of ``torch.optim.swa_utils.AveragedModel`` in checkpoints. That class reads its count from the device
    three times per step, and waits for it each time.

    Args:
        net: network to average.
        decay: long-run decay of the average; at the start its memory is short.
    """

    n_averaged: Tensor

    def __init__(self, net: DenseDetector, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(net)
        self.decay = decay
        self.register_buffer("n_averaged", torch.tensor(0))
        self._count: int | None = 0
        self.register_load_state_dict_post_hook(_forget_count)  # type: ignore[no-untyped-call]
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards the network's current weights."""
        if self._count is None:  # once, in a resumed run
            self._count = int(self.n_averaged)
        weight = 1.0 - ema_decay(self._count, self.decay) if self._count else 1.0
        # Two calls handle hundreds of tensors.
        own, others = ([*module.parameters(), *module.buffers()] for module in (self.module, net))
        pairs = [*zip(own, others, strict=True)]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        whole = [pair for pair in pairs if not pair[0].is_floating_point()]
        for some, share in ((floats, weight), (whole, 1.0)):
            if some:
                mine, theirs = (list(tensors) for tensors in zip(*some, strict=True))
                if share == 1:
                    torch._foreach_copy_(mine, theirs)
                else:
                    torch._foreach_lerp_(mine, theirs, share)
        self._count += 1
        self.n_averaged += 1


def _forget_count(module: nn.Module, incompatible: Any) -> None:
    module._count = None  # type: ignore[assignment]
