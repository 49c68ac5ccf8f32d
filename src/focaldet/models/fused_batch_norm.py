"""Batch norm and the ReLU after it, which take a quarter of a training step on a CPU, in one operator."""

import math

import torch
from torch import Tensor, nn

from focaldet import kernels
from focaldet.checks import in_transform
from focaldet.kernels.batch_norm import ANY, DTYPES, Bounds, normalise
from focaldet.models.batch_norm import take_over

BOUNDS: dict[type, Bounds] = {nn.Identity: ANY, nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0)}
"""Lowest and highest output of the activations that the kernel computes."""


class FusedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d``, or timm's ``BatchNormAct2d``, which has an activation.

    On the CPU, training uses the kernel (``kernels.batch_norm``). Everything else, and traced and exported models, keep
    torch's operators.

    >>> norm = FusedBatchNorm(BatchNormAct2d(8))
    >>> norm(torch.randn(2, 8, 16, 20)).min() >= 0
    tensor(True)
    """

    act: nn.Module  # only if timm's has one

    def __init__(self, like: nn.BatchNorm2d) -> None:
        """The same batch norm, with the same tensors.

        Args:
            like: see ``is_fusible``.
        """
        super().__init__(like.num_features, like.eps, like.momentum, affine=False, track_running_stats=False)
        self.affine = self.track_running_stats = True
        take_over(self, like)
        self.bounds = BOUNDS.get(type(getattr(self, "act", nn.Identity())))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape and dtype."""
        if not self._pays(x):
            y = super().forward(x)
            for follower in self.children():
                y = follower(y)
            return y
        y, mean, variance = normalise(x, self.weight, self.bias, self.eps, self.bounds or ANY)
        self._track(mean, variance, x.numel() // x.shape[1])
        return y if self.bounds else self.act(y)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics."""
        assert self.running_mean is not None  # is_fusible
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)

    def _pays(self, x: Tensor) -> bool:
        return (
            self.training
            and x.device.type == self.weight.device.type == "cpu"
            and x.dtype in DTYPES
            and self.weight.dtype == torch.float32
            and type(x) is Tensor  # no fake tensors
            and x.ndim == 4
            and x.shape[1] == self.num_features
            and x.numel() > self.num_features  # torch explains why one number per channel is too few
            and not torch.compiler.is_compiling()
            and not in_transform(self.weight, self.bias, x)
            and kernels.available()["cpu"] is None
        )


def is_fusible(norm: nn.BatchNorm2d) -> bool:
    """Whether a batch norm has weights and running statistics, and nothing but an activation after it."""
    return (
        norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and type(getattr(norm, "drop", nn.Identity())) is nn.Identity
    )
