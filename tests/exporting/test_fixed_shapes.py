"""The two parts that each file format implements differently: suppression of a batch, and TensorFlow's padding."""

import numpy as np
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import ScaledStdConv2dSame
from torch import nn
from torchvision import ops as torchvision_ops

from focaldet.checks import InputError
from focaldet.exporting.nms import batched_nms, onnx_nms
from focaldet.exporting.same_padding import conv2d_same, conv2d_same_by_index, with_same_convolutions

ways = pytest.mark.parametrize("convolution", [conv2d_same, conv2d_same_by_index])


@pytest.mark.parametrize("suppress", [batched_nms, onnx_nms])
@pytest.mark.parametrize("far", [0.0, 1e5])
def test_images_and_classes_do_not_suppress_each_other(suppress, far: float) -> None:
    chance = np.random.default_rng(0)
    corners = chance.uniform(-20, 40, (3, 200, 2)) + far
    boxes = torch.tensor(np.concatenate([corners, corners + chance.uniform(0, 30, (3, 200, 2))], axis=2)).float()
    scores = torch.tensor(chance.uniform(0, 1, (3, 200))).float()
    scores[:, ::9] = -1.0
    scores[:, 1::7] = 0.5
    labels = torch.tensor(chance.integers(4, size=(3, 200)))
    mask = suppress(boxes, scores, labels, 4, 0.5, 200)
    for image in range(3):
        there = (scores[image] >= 0).nonzero()[:, 0]
        kept = torchvision_ops.batched_nms(
            boxes[image, there].double(), scores[image, there].double(), labels[image, there], 0.5
        )
        assert mask[image].nonzero()[:, 0].tolist() == there[kept].sort().values.tolist()


def test_no_box_is_suppressed_to_none() -> None:
    mask = batched_nms(torch.zeros(2, 5, 4), torch.full((2, 5), -1.0), torch.zeros(2, 5).long(), 3, 0.5, 10)
    assert not mask.any()


@ways
@pytest.mark.parametrize("size", [(1, 1), (7, 8), (16, 33), (5, 64)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), (3, 2, 2), (1, 2, 1), (2, 3, 1)]
)
def test_the_padding_is_timms(convolution, size, kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = Conv2dSame(4, 6, kernel, stride, dilation=dilation, groups=2)
    images = torch.randn(2, 4, *size)
    with torch.no_grad():
        expected = layer(images)
        (ours,) = with_same_convolutions(nn.Sequential(layer), convolution)
        torch.testing.assert_close(ours(images), expected, atol=1e-6, rtol=1e-5)


@ways
def test_the_network_itself_stays_as_it_was(convolution) -> None:
    net = nn.Sequential(nn.Sequential(Conv2dSame(3, 3, 3, 2)), nn.Conv2d(3, 3, 1))
    copy = with_same_convolutions(net, convolution)
    assert [type(layer) for layer in net[0]] == [Conv2dSame]
    assert type(copy[0][0]) is not Conv2dSame
    assert copy[0][0].weight is not net[0][0].weight
    assert type(copy[1]) is nn.Conv2d


def test_layers_that_pad_so_and_do_more_are_refused() -> None:
    with pytest.raises(InputError, match="ScaledStdConv2dSame: its padding depends on the image size"):
        with_same_convolutions(nn.Sequential(ScaledStdConv2dSame(3, 3, 3)), conv2d_same)
