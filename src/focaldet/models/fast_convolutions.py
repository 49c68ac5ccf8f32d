"""Which convolutions of a network have a faster form on the CPU."""

from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from focaldet.models.conv3x3 import Conv3x3, is_conv3x3
from focaldet.models.depthwise_conv import DepthwiseConv, is_depthwise


def with_fast_convolutions(module: nn.Module) -> None:
    """Replace every convolution in a module that has a faster form by it, with the same parameters."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and is_conv3x3(child):
            setattr(module, name, Conv3x3.like(child))
        elif isinstance(child, nn.Conv2d) and type(child) in (nn.Conv2d, Conv2dSame) and is_depthwise(child):
            setattr(module, name, DepthwiseConv(child))
        else:
            with_fast_convolutions(child)
