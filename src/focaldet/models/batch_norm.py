"""Batch norm over the whole batch, across all processes.

GPUs use the kernels of ``torch.nn.SyncBatchNorm``, which exist for GPUs only. On CPUs every step is a plain PyTorch
operation, so two processes train as one does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import all_reduce, get_world_size, group, is_available, is_initialized
from torch.nn.modules._functions import SyncBatchNorm


class _Normalise(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias``, with mean and biased variance over x ``(N, C, *)`` of all
    processes.

    Also return mean ``(C,)``, variance ``(C,)`` and the number of values per channel, float32, for the running
    statistics.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1] + [1] * (x.ndim - 2)
        wide = x.float()
        total = torch.cat([wide.sum(axes), wide.new_tensor([wide.numel() / wide.shape[1]])])
        all_reduce(total)
        mean, count = total[:-1] / total[-1], total[-1]
        centred = wide - mean.view(shape)
        var = centred.square().sum(axes)  # from centred values: mean of squares minus squared mean would cancel
        all_reduce(var)
        var /= count
        inverse_std = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse_std, count)
        ctx.mark_non_differentiable(mean, var, count)
        y = centred * (inverse_std * weight).view(shape) + bias.view(shape)
        return y.to(x.dtype), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1] + [1] * (x.ndim - 2)
        wide, normal = grad.float(), (x.float() - mean.view(shape)) * inverse_std.view(shape)
        own = torch.stack(
            [(wide * normal).sum(axes), wide.sum(axes)]
        )  # gradients of weight and bias from this process's share
        whole = own.clone()
        all_reduce(whole)
        whole /= count
        grad_x = wide - whole[1].view(shape) - normal * whole[0].view(shape)
        return (grad_x * (inverse_std * weight).view(shape)).to(x.dtype), own[0], own[1], None


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with statistics over the whole batch on all processes.

    Equivalent to a single process's batch norm on the joined batches: same result, running statistics and input
    gradient, and the same gradients of weight and bias summed over the processes. All processes must call it equally
    often. In evaluation and in a single process, it is ordinary batch norm. ``drop`` and ``act``, if present, are
    applied afterwards, as in timm's ``BatchNormAct2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, ...)`` to the same shape and dtype."""
        several = is_available() and is_initialized() and get_world_size() > 1
        x = self._of_all_processes(x) if self.training and several else super().forward(x)
        for follower in self.children():
            x = follower(x)
        return x

    def _of_all_processes(self, x: Tensor) -> Tensor:
        weight = x.new_ones(self.num_features) if self.weight is None else self.weight
        bias = x.new_zeros(self.num_features) if self.bias is None else self.bias
        y: Tensor
        if x.is_cuda:
            share = self._count_step()
            y = SyncBatchNorm.apply(
                x, weight, bias, self.running_mean, self.running_var, self.eps, share, group.WORLD, get_world_size()
            )
            return y
        y, mean, var, count = _Normalise.apply(x, weight, bias, self.eps)
        share = self._count_step()
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), share)
        return y

    def _count_step(self) -> float:
        """Count a step of the running statistics and return its share of them."""
        if self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked += 1
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input: expected at least 2 axes, got {input.ndim}")


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace each batch norm of a module by a synchronised one with the same tensors and names; return the module.

    >>> net = synchronise_batch_norm(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    >>> [type(child).__name__ for child in net.children()]
    ['Conv2d', 'SynchronisedBatchNorm']
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        norm = SynchronisedBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        take_over(norm, module)
        return norm
    for name, child in list(module.named_children()):
        module._modules[name] = synchronise_batch_norm(child)
    return module


def take_over(norm: nn.modules.batchnorm._BatchNorm, like: nn.modules.batchnorm._BatchNorm) -> None:
    """Give a batch norm the tensors of another, its mode, and what timm's ``BatchNormAct2d`` applies afterwards."""
    norm._parameters.update(like._parameters)
    norm._buffers.update(like._buffers)
    for name in ("drop", "act"):  # applied in this order
        if isinstance(child := getattr(like, name, None), nn.Module):
            norm.add_module(name, child)
    norm.train(like.training)
