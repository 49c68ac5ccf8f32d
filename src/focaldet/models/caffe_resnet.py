"""ResNets with weights from Caffe: the first convolution of a bottleneck has the stride (He et al., CVPR 2016).

In timm and elsewhere, the middle 3x3 convolution has it. The shapes of the weights are the same.
"""

from timm.models.resnet import Bottleneck

from focaldet.checks import InputError
from focaldet.models.backbone import Backbone


def stride_first_convolutions(backbone: Backbone) -> None:
    """Move the stride of each bottleneck from its 3x3 convolution to the 1x1 convolution before it.

    Raises:
        InputError: the network has no strided bottleneck.

    >>> backbone = Backbone("resnet50")
    >>> stride_first_convolutions(backbone)
    >>> block = backbone.net.layer2[0]
    >>> block.conv1.stride, block.conv2.stride
    ((2, 2), (1, 1))
    """
    strided = [m for m in backbone.net.modules() if isinstance(m, Bottleneck) and m.conv2.stride != (1, 1)]
    if not strided:
        raise InputError(f"bottleneck_stride: {backbone.name} has no bottleneck with a stride")
    for block in strided:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
