"""Variants in public code, each against a few lines of plain PyTorch."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, relu

from focaldet.methods.gfl import GFL
from focaldet.models.backbone import Backbone
from focaldet.models.caffe_resnet import stride_first_convolutions
from focaldet.models.detector import DenseDetector, Variant
from focaldet.models.fpn import PyramidNeck
from focaldet.models.head import DenseHead
from focaldet.models.postprocess import PostProcess, PostProcessConfig
from focaldet.structures import HeadOutputs


def features(*channels):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, c, 16 >> i, 24 >> i, generator=generator) for i, c in enumerate(channels)]


@pytest.mark.parametrize("p6_from", ["p5", "c5"])
@pytest.mark.parametrize("relu_before_p7", [True, False])
@pytest.mark.parametrize("c5_channels", [12, 8])  # 8: as many as the pyramid has
def test_coarse_levels_are_made_of_the_named_map(p6_from, relu_before_p7, c5_channels):
    torch.manual_seed(0)
    neck = PyramidNeck([4, 6, c5_channels], 8, p6_from=p6_from, relu_before_p7=relu_before_p7)
    maps = features(4, 6, c5_channels)
    *_, p5, p6, p7 = neck(maps)
    first, second = neck.fpn.extra_blocks.p6, neck.fpn.extra_blocks.p7
    expected = conv2d(p5 if p6_from == "p5" else maps[-1], first.weight, first.bias, stride=2, padding=1)
    assert torch.equal(p6, expected)
    expected = conv2d(relu(p6) if relu_before_p7 else p6, second.weight, second.bias, stride=2, padding=1)
    assert torch.equal(p7, expected)


def test_tower_without_a_norm_is_convolutions_and_relus():
    head = DenseHead(8, 2, 4, depth=2, tower_norm="none")
    assert [type(layer).__name__ for layer in head.box_tower] == ["Conv3x3", "ReLU"] * 2
    assert all(layer.bias is not None and not layer.bias.any() for layer in head.box_tower if hasattr(layer, "bias"))


def test_tower_has_a_bias_before_its_group_norm_on_demand():
    with_bias, without = (DenseHead(8, 2, 4, tower_bias=bias).class_tower for bias in (True, False))
    assert [layer.bias is not None for layer in with_bias if isinstance(layer, nn.Conv2d)] == [True] * 4
    assert [layer.bias is not None for layer in without if isinstance(layer, nn.Conv2d)] == [False] * 4


@pytest.mark.parametrize("tower", ["box", "class"])
def test_centerness_is_read_from_the_named_tower(tower):
    torch.manual_seed(0)
    head = DenseHead(8, 2, 4, num_levels=1, quality_branch="centerness", quality_on=tower)
    (level,) = features(8)
    (read,) = (head.box_tower if tower == "box" else head.class_tower)([level])
    expected = head.centerness(read)
    assert torch.equal(head([level]).quality_logits[0], expected)


def test_stride_of_a_bottleneck_moves_to_its_first_convolution():
    torch.manual_seed(0)
    backbone = Backbone("resnet50").eval()
    block = backbone.net.layer3[0]
    nn.init.ones_(block.bn3.weight)  # timm starts it at 0
    image = torch.randn(1, 512, 8, 6)
    with torch.no_grad():
        usual = block(image)
        stride_first_convolutions(backbone)
        x = relu(block.bn1(conv2d(image, block.conv1.weight, stride=2)))
        x = relu(block.bn2(conv2d(x, block.conv2.weight, padding=1)))
        expected = relu(block.bn3(conv2d(x, block.conv3.weight)) + block.downsample(image))
        torch.testing.assert_close(block(image), expected)
        assert not torch.allclose(usual, expected, atol=1e-3)
        assert [tuple(m.shape[2:]) for m in backbone(torch.zeros(1, 3, 64, 96))] == [(8, 12), (4, 6), (2, 3)]


def test_network_without_a_strided_bottleneck_cannot_be_caffes():
    with pytest.raises(ValueError, match="resnet18 has no bottleneck"):
        stride_first_convolutions(Backbone("resnet18"))


def test_padding_is_zeros_after_the_normalisation():
    torch.manual_seed(0)
    options = {"channels": 16, "head_depth": 1}
    padded = DenseDetector(Backbone("test_resnet"), 2, 4, variant=Variant(pad_to=32), **options).eval()
    plain = DenseDetector(Backbone("test_resnet"), 2, 4, **options).eval()
    plain.load_state_dict(padded.state_dict())
    image = torch.randint(0, 256, (1, 3, 40, 64), dtype=torch.uint8)
    filled = plain.mean.expand(1, 3, 64, 64).clone()  # the mean is zero once it is normalised
    filled[:, :, :40] = image
    with torch.no_grad():
        for ours, expected in zip(padded(image).class_logits, plain(filled).class_logits, strict=True):
            torch.testing.assert_close(ours, expected)


def peak():
    """Two levels of one class: a box of one stride to each side around (row 2, column 3) of the coarse one."""
    logits = [torch.full((1, 1, 10, 12), -9.0), torch.full((1, 1, 5, 5), -9.0)]
    logits[1][0, 0, 2, 3] = 3.0
    sides = [torch.zeros(1, 68, *level.shape[2:]) for level in logits]
    for level in sides:
        level[:, 1::17] = 60.0
    return HeadOutputs(logits, sides)


@pytest.mark.parametrize(
    ("config", "box"),
    [
        (PostProcessConfig(), [40, 24, 72, 56]),
        (PostProcessConfig(offset=0.0), [32, 16, 64, 48]),
        (PostProcessConfig(shift_px=-0.5), [39.5, 23.5, 71.5, 55.5]),
        # 96 // 5 = 19 pixels to the right, 80 // 5 = 16 down; sides are still counted in strides.
        (PostProcessConfig(offset=0.0, steps="fitted"), [57 - 16, 32 - 16, 57 + 16, 32 + 16]),
    ],
)
def test_box_lies_around_the_centre_that_the_config_says(config, box):
    (found,) = PostProcess(GFL(), (8, 16), config)(peak(), [(80, 96)])
    assert found.boxes_xyxy.tolist() == [pytest.approx(box)]


def test_box_that_the_image_cuts_to_nothing_stays_on_demand():
    (dropped,) = PostProcess(GFL(), (8, 16))(peak(), [(80, 40)])
    (kept,) = PostProcess(GFL(), (8, 16), keep_empty=True)(peak(), [(80, 40)])
    assert len(dropped) == 0
    assert kept.boxes_xyxy.tolist() == [[40, 24, 40, 56]]


def test_box_of_last_pixels_is_cut_at_the_last_pixel():
    (found,) = PostProcess(GFL(), (8, 16), last_pixel=True)(peak(), [(50, 60)])
    assert found.boxes_xyxy.tolist() == [[40, 24, 59, 49]]


def test_options_by_name_replace_those_of_the_reading():
    config = PostProcessConfig(nms_iou=0.4, topk_candidates=7)
    assert PostProcess(GFL(), (8,), config, topk_candidates=9).config == replace(config, topk_candidates=9)
    with pytest.raises(TypeError, match="nms_iuo"):
        PostProcess(GFL(), (8,), nms_iuo=0.4)
