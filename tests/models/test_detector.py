import math

import pytest
import torch

from focaldet.models.backbone import Backbone
from focaldet.models.detector import DenseDetector, Variant
from focaldet.models.fpn import STRIDES, CoarseLevels, PyramidNeck, backbone_strides


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return DenseDetector(Backbone("test_resnet"), num_classes=3, num_box_channels=68, channels=16, head_depth=1).eval()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 47), (64, 128), (129, 31)])
def test_levels_of_any_image_size_are_the_size_over_the_stride_rounded_up(detector, height, width):
    with torch.no_grad():
        outputs = detector(torch.zeros(2, 3, height, width, dtype=torch.uint8))
    shapes = tuple((math.ceil(height / s), math.ceil(width / s)) for s in STRIDES["p3-p7"])
    assert outputs.level_shapes == shapes
    assert [tuple(m.shape) for m in outputs.class_logits] == [(2, 3, *shape) for shape in shapes]
    assert [tuple(m.shape) for m in outputs.box_maps] == [(2, 68, *shape) for shape in shapes]


def test_image_is_normalised_as_the_backbones_weights_expect(detector):
    image = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean = torch.tensor(detector.backbone.mean).view(3, 1, 1)
    std = torch.tensor(detector.backbone.std).view(3, 1, 1)
    with torch.no_grad():
        expected = detector.head(detector.neck(detector.backbone((image / 255 - mean) / std)))
        for given in (image, image.float()):
            for ours, theirs in zip(detector(given).class_logits, expected.class_logits, strict=True):
                torch.testing.assert_close(ours, theirs)


def test_images_of_a_batch_do_not_touch_each_other(detector):
    pair = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        both, one = detector(pair), detector(pair[1:])
    for ours, theirs in zip(both.box_maps, one.box_maps, strict=True):
        torch.testing.assert_close(ours[1:], theirs)


def test_every_parameter_is_trained():
    torch.manual_seed(0)
    detector = DenseDetector(Backbone("test_resnet"), 2, 8, channels=16, head_depth=1, quality_branch="centerness")
    outputs = detector(torch.rand(2, 3, 64, 64) * 255)
    maps = [*outputs.class_logits, *outputs.box_maps, *outputs.quality_logits]
    sum(level.square().sum() for level in maps).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    # In the backbone some gradients are zero at first: timm starts the last norm of a residual branch at zero.
    new = [*detector.neck.named_parameters(), *detector.head.named_parameters()]
    assert [name for name, p in new if not p.grad.any()] == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (1, 2), (3, 3)])
def test_gradients_of_the_coarse_levels_in_bfloat16_are_those_in_float32(height, width):
    torch.manual_seed(0)
    levels = CoarseLevels(24, 16, has_p7=True, from_p5=False, relu_before_p7=False)
    c5 = torch.randn(2, 24, height, width).contiguous(memory_format=torch.channels_last)
    gradients = []
    for bfloat16 in (False, True):
        levels.zero_grad()
        unset = [torch.full_like(p, math.nan, dtype=d) for p in levels.parameters() for d in (p.dtype, torch.bfloat16)]
        del unset  # what is not written to from here on is likely to show
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            maps, _ = levels([], [c5], [])
        sum(level.float().square().sum() for level in maps).backward()
        gradients.append({name: p.grad.clone() for name, p in levels.named_parameters()})
    for name, exact in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], exact, rtol=0.05, atol=0.05 * float(exact.abs().max()), msg=name)


def test_normalisation_is_stored_with_the_weights(detector):
    state = detector.state_dict()
    assert state["mean"].flatten().tolist() == pytest.approx([255 * x for x in detector.backbone.mean])
    assert state["std"].flatten().tolist() == pytest.approx([255 * x for x in detector.backbone.std])


def test_coarse_levels_are_convolutions_on_p5():
    neck = PyramidNeck([4, 6, 8], 16)
    features = [torch.randn(1, c, s, s) for c, s in ((4, 16), (6, 8), (8, 4))]
    pyramid = neck(features)
    assert [tuple(p.shape) for p in pyramid] == [(1, 16, s, s) for s in (16, 8, 4, 2, 1)]
    gradient = torch.autograd.grad(pyramid[3].sum(), pyramid[2], retain_graph=True)[0]
    assert gradient.any()


def test_pyramid_can_begin_at_stride_four():
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", backbone_strides("p2-p6"))
    detector = DenseDetector(backbone, 3, 8, channels=16, head_depth=1, variant=Variant(levels="p2-p6")).eval()
    assert detector.strides == (4, 8, 16, 32, 64)
    outputs = detector(torch.zeros(1, 3, 70, 130))
    assert outputs.level_shapes == tuple((math.ceil(70 / s), math.ceil(130 / s)) for s in detector.strides)
    sum(level.square().sum() for level in outputs.class_logits).backward()
    assert [name for name, p in detector.neck.named_parameters() if p.grad is None] == []
