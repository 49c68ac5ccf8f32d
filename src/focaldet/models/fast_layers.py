"""Which layers of a network have a faster form on the CPU."""

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from focaldet.models.conv3x3 import Conv3x3, is_conv3x3
from focaldet.models.depthwise_conv import DepthwiseConv, is_depthwise
from focaldet.models.fused_norm import FusedBatchNorm, is_fusible


def with_fast_layers(module: nn.Module) -> None:
    """Replace every layer in a module that has a faster form by it, with the same tensors and names."""
    for name, child in module.named_children():
        fast = _fast(child)
        if fast is None:
            with_fast_layers(child)
        else:
            setattr(module, name, fast)


def _fast(layer: nn.Module) -> nn.Module | None:
    kind = type(layer)  # not a subclass, which may compute something else
    if isinstance(layer, nn.Conv2d):
        if kind is nn.Conv2d and is_conv3x3(layer):
            return Conv3x3.like(layer)
        if kind in (nn.Conv2d, Conv2dSame) and is_depthwise(layer):
            return DepthwiseConv(layer)
    if isinstance(layer, nn.BatchNorm2d) and kind in (nn.BatchNorm2d, BatchNormAct2d) and is_fusible(layer):
        return FusedBatchNorm(layer)
    return None
