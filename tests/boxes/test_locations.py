import math

import pytest
import torch

from focaldet.boxes.locations import Lattice, flatten_levels, gather_locations

STRIDES = (8, 16, 32, 64, 128)


def lattice_of(height, width, offset=0.5):
    """The lattice of an image's size: each level rounds up."""
    return Lattice(tuple((math.ceil(height / s), math.ceil(width / s)) for s in STRIDES), STRIDES, offset)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 47), (256, 320)])
def test_points_are_those_of_the_plain_loops(height, width, offset):
    lattice = lattice_of(height, width, offset)
    points, strides = [], []
    for (rows, columns), stride in zip(lattice.level_shapes, STRIDES, strict=True):
        for i in range(rows):
            for j in range(columns):
                points.append([(j + offset) * stride, (i + offset) * stride])
                strides.append(float(stride))
    assert lattice.points().tolist() == points
    assert lattice.location_strides().tolist() == strides
    assert lattice.num_locations == len(points) == sum(lattice.level_sizes)


def test_level_starts_are_where_the_stride_changes():
    lattice = lattice_of(100, 75)
    strides = lattice.location_strides()
    assert [float(strides[start]) for start in lattice.level_starts] == list(STRIDES)
    assert all(strides[start - 1] != strides[start] for start in lattice.level_starts[1:])


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (96, 128), (129, 64)])
def test_locations_inside_are_those_of_the_image_alone(size, offset):
    padded = lattice_of(160, 192, offset)
    alone = lattice_of(*size, offset)
    (inside,) = padded.inside(torch.tensor([size]))
    assert torch.equal(padded.points()[inside], alone.points())
    assert torch.equal(padded.location_strides()[inside], alone.location_strides())


def test_each_image_has_its_own_locations_inside():
    inside = lattice_of(64, 64).inside(torch.tensor([[64, 64], [8, 64], [64, 8]]))
    assert inside.shape == (3, lattice_of(64, 64).num_locations)
    assert bool(inside[0].all())
    assert inside[1, :64].view(8, 8).nonzero()[:, 0].unique().tolist() == [0]
    assert inside[2, :64].view(8, 8).nonzero()[:, 1].unique().tolist() == [0]


def test_flattened_maps_lie_in_the_order_of_the_lattice():
    lattice = lattice_of(70, 90)
    maps, start = [], 0
    for (height, width), size in zip(lattice.level_shapes, lattice.level_sizes, strict=True):
        x, y = lattice.points()[start : start + size].view(height, width, 2).unbind(-1)
        maps.append(torch.stack([torch.stack([x, y]), torch.stack([x, y]) + 1000]))  # (2, 2, H, W)
        start += size
    flat = flatten_levels(maps, channels=2)
    assert torch.equal(flat[0], lattice.points())
    assert torch.equal(flat[1], lattice.points() + 1000)


def test_anchors_of_a_location_follow_each_other():
    """Channels are anchor by anchor: 3 anchors of 2 numbers at each of the 4 locations."""
    level = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 2, 2)
    assert flatten_levels([level], channels=2)[0].tolist() == [[0, 1], [2, 3], [4, 5]] * 4


def test_flattening_a_channels_last_map_gives_the_same():
    level = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    last = level.to(memory_format=torch.channels_last)
    assert torch.equal(flatten_levels([level], 6), flatten_levels([last], 6))


def test_strides_and_levels_must_be_as_many():
    with pytest.raises(ValueError, match="expected 2 strides, got 1"):
        Lattice(((2, 2), (1, 1)), (8,))


@pytest.mark.parametrize("num_anchors", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gathered_locations_are_those_of_the_flattened_maps(num_anchors, memory_format):
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, num_anchors * 5, *shape, generator=generator).to(memory_format=memory_format).requires_grad_()
        for shape in ((6, 8), (3, 4), (1, 1))
    ]
    flat = flatten_levels(maps, 5)
    image = torch.randint(2, (40,), generator=generator)
    location = torch.randint(flat.shape[1], (40,), generator=generator)  # in no order, some twice
    gathered = gather_locations(maps, 5, image, location)
    assert torch.equal(gathered, flat[image, location])
    weight = torch.randn(40, 5, generator=generator)
    found, expected = (torch.autograd.grad((x * weight).sum(), maps) for x in (gathered, flat[image, location]))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    nothing = gather_locations(maps, 5, image[:0], location[:0])
    assert nothing.shape == (0, 5)
