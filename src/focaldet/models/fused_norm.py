"""Batch norm and group norm in one operator with the ReLU after them: a third of a training step on a CPU."""

import torch
from torch import Tensor, nn

from focaldet.kernels.layers import applies
from focaldet.kernels.normalise import ANY, DTYPES, RELU, Bounds, batch_norm, group_norm
from focaldet.models.batch_norm import take_over

BOUNDS: dict[type, Bounds] = {nn.Identity: ANY, nn.ReLU: RELU, nn.ReLU6: (0.0, 6.0)}
"""Lowest and highest output of the activations that the kernel computes."""


class FusedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d``, or timm's ``BatchNormAct2d``, which has an activation.

    On the CPU, training uses the kernel (``kernels.normalise``). Everything else, and traced and exported models, keep
    torch's operators.

    >>> from timm.layers import BatchNormAct2d
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
        # torch explains why one number per channel is too few.
        if not _pays(self, x) or x.numel() == self.num_features:
            y = super().forward(x)
            for follower in self.children():
                y = follower(y)
            return y
        y, mean, variance = batch_norm(x, self.weight, self.bias, self.eps, self.bounds or ANY)
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


class GroupNormReLU(nn.GroupNorm):
    """``nn.GroupNorm`` and ReLU, on a map ``(B, C, H, W)``.

    On the CPU, training uses the kernel (``kernels.normalise``), like ``FusedBatchNorm``.

    >>> GroupNormReLU(4, 8)(torch.randn(2, 8, 16, 20)).min() >= 0
    tensor(True)
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape and dtype."""
        if _pays(self, x):
            return group_norm(x, self.num_groups, self.weight, self.bias, self.eps, RELU)
        return super().forward(x).relu_()


def _pays(norm: nn.BatchNorm2d | nn.GroupNorm, x: Tensor) -> bool:
    return (
        norm.training
        and x.dtype in DTYPES
        and norm.weight.dtype == torch.float32
        and x.ndim == 4
        and x.shape[1] == len(norm.weight)
        and x.numel() > 0
        and applies([x], norm.weight, norm.bias)
    )


def is_fusible(norm: nn.BatchNorm2d) -> bool:
    """Whether a batch norm has weights and running statistics, and nothing but an activation after it."""
    return (
        norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and type(getattr(norm, "drop", nn.Identity())) is nn.Identity
    )
