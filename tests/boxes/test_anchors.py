import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from focaldet.boxes.anchors import RETINANET_RATIOS, RETINANET_SCALES, anchor_shapes, chosen_anchors, grid_anchors
from focaldet.boxes.locations import Lattice

STRIDES = (8, 16, 32, 64, 128)


def test_anchors_of_retinanet_have_the_papers_areas_and_ratios():
    shapes = anchor_shapes(STRIDES)
    assert shapes.shape == (5, 9, 2)
    for level, stride in enumerate(STRIDES):
        expected = [
            (4 * stride * 2 ** (k / 3) / math.sqrt(ratio), 4 * stride * 2 ** (k / 3) * math.sqrt(ratio))
            for ratio in (0.5, 1, 2)
            for k in range(3)
        ]
        torch.testing.assert_close(shapes[level], torch.tensor(expected), rtol=1e-6, atol=0)


def test_shapes_of_whole_pixels_are_torchvisions():
    cells = _default_anchorgen().cell_anchors
    shapes = anchor_shapes(STRIDES, whole_px=True)
    for level, cell in enumerate(cells):
        assert torch.equal(torch.cat([-shapes[level], shapes[level]], dim=1) / 2, cell)


@pytest.mark.parametrize("size", [(256, 384), (1024, 640)])
def test_anchors_and_their_order_are_torchvisions(size):
    """Torchvision's first point is the corner of the image: offset 0."""
    maps = [torch.zeros(1, 1, size[0] // s, size[1] // s) for s in STRIDES]
    images = ImageList(torch.zeros(1, 3, *size), [size])
    lattice = Lattice(tuple((m.shape[2], m.shape[3]) for m in maps), STRIDES, offset=0.0)
    (expected,) = _default_anchorgen()(images, maps)
    assert torch.equal(grid_anchors(lattice, anchor_shapes(STRIDES, whole_px=True)), expected)


def test_sides_that_end_on_half_pixels_are_rounded_as_torchvisions():
    strides, scales, ratios = (2, 6, 10), (0.5, 1.5, 7.5), (1.0, 3.0)
    sizes = tuple(tuple(math.floor(scale * stride) for scale in scales) for stride in strides)
    cells = AnchorGenerator(sizes, (ratios,) * 3).cell_anchors
    shapes = anchor_shapes(strides, scales, ratios, whole_px=True)
    assert torch.equal(torch.cat([-shapes, shapes], dim=2) / 2, torch.stack(cells))


def test_anchors_lie_around_their_location_and_follow_each_other():
    lattice, shapes = Lattice(((2, 3), (1, 1)), (8, 16)), anchor_shapes((8, 16), RETINANET_SCALES, RETINANET_RATIOS)
    anchors = grid_anchors(lattice, shapes).view(7, 9, 4)
    for location, point in enumerate(lattice.points()):
        level = 0 if location < 6 else 1
        torch.testing.assert_close((anchors[location, :, :2] + anchors[location, :, 2:]) / 2, point.expand(9, 2))
        torch.testing.assert_close(anchors[location, :, 2:] - anchors[location, :, :2], shapes[level])


@pytest.mark.parametrize("placing", [{"offset": 0.0}, {"shift_px": -0.5}, {"steps": ((7, 8), (15, 14), (33, 30))}])
def test_chosen_anchors_are_those_of_all_locations(placing):
    lattice = Lattice(((5, 7), (3, 4), (1, 1)), (7, 16, 33), **placing)
    shapes = anchor_shapes(lattice.strides)
    every = grid_anchors(lattice, shapes)
    index = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chosen_anchors(lattice, shapes, index), every[index])
    assert chosen_anchors(lattice, shapes, index[:0]).shape == (0, 4)


def test_number_of_levels_must_agree():
    lattice, shapes = Lattice(((2, 2),), (8,)), anchor_shapes(STRIDES)
    with pytest.raises(ValueError, match="shapes: expected 1 levels, got 5"):
        grid_anchors(lattice, shapes)
    with pytest.raises(ValueError, match="shapes: expected 1 levels, got 5"):
        chosen_anchors(lattice, shapes, torch.tensor([0]))
