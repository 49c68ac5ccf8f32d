import numpy as np
import pytest
import torch
from scenes import lattice_of, truth_of

from focaldet.assign import windows
from focaldet.assign.atss import assign_atss
from focaldet.assign.center_region import assign_center_region
from focaldet.assign.max_iou import assign_max_iou
from focaldet.assign.windows import locations_within, own_columns_and_rows, ragged
from focaldet.boxes.anchors import anchor_shapes
from focaldet.boxes.locations import Lattice


@pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0], [3], [0, 4, 0, 0, 1, 11, 2, 0]])
def test_counting_in_parts_is_counting_at_once(monkeypatch, chunk, counts):
    monkeypatch.setattr(windows, "CHUNK", chunk)
    parts = list(ragged(torch.tensor(counts, dtype=torch.int64)))
    found = [pair for owner, number in parts for pair in zip(owner.tolist(), number.tolist(), strict=True)]
    assert found == [(owner, number) for owner, count in enumerate(counts) for number in range(count)]
    assert all(0 < owner.numel() < chunk + max(counts) for owner, _ in parts)


def test_parts_are_as_large_as_a_chunk_allows(monkeypatch):
    monkeypatch.setattr(windows, "CHUNK", 10)
    assert [owner.numel() for owner, _ in ragged(torch.tensor([3] * 20))] == [9, 9, 12, 9, 9, 12]


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_locations_within_a_rectangle_are_those_whose_point_is_in_it(seed, offset):
    rng = np.random.default_rng(seed)
    lattice = lattice_of(100, 180, offset=offset)
    points = lattice.points().double()
    level = torch.from_numpy(rng.integers(0, 5, 40))
    centers = torch.from_numpy(rng.integers(-5, 45, (40, 2)) * 4.0)  # many points lie on a rectangle's border
    reach = torch.from_numpy(rng.integers(-1, 30, (40, 2)) * 4.0)
    shape = own_columns_and_rows(lattice, torch.tensor([0]), None)[0, level]
    found = {i: [] for i in range(40)}
    for rectangle, location, point in locations_within(lattice, level, centers, reach, shape):
        assert torch.equal(point.double(), points[location])
        for i, s in zip(rectangle.tolist(), location.tolist(), strict=True):
            found[i].append(s)
    first = [*lattice.level_starts, lattice.num_locations]
    for i in range(40):
        of_level = torch.arange(first[level[i]], first[level[i] + 1])
        within = ((points[of_level] - centers[i]).abs() <= reach[i]).all(dim=1)
        assert found[i] == of_level[within].tolist()


def test_locations_of_the_padding_are_not_found():
    lattice = Lattice(((4, 6),), (8,))
    shape = own_columns_and_rows(lattice, torch.tensor([1]), torch.tensor([[32, 48], [9, 25]]))[:, 0]
    far = torch.tensor([[1e4, 1e4]]).double()
    ((_, location, _),) = locations_within(lattice, torch.tensor([0]), torch.zeros_like(far), far, shape)
    assert location.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]


def test_own_locations_are_at_most_those_of_the_batch_and_as_many_as_lie_inside():
    lattice = lattice_of(90, 150)
    sizes = torch.tensor([[90, 150], [1, 1], [33, 128], [90, 17]])
    own = own_columns_and_rows(lattice, torch.arange(4), sizes)
    levels = [inside.split(lattice.level_sizes) for inside in lattice.inside(sizes)]
    assert own.prod(dim=-1).tolist() == [[int(level.sum()) for level in image] for image in levels]
    assert torch.equal(own_columns_and_rows(lattice, torch.arange(4), None), own[:1].expand(4, -1, -1))


@pytest.mark.parametrize("placing", [{"shift_px": -0.5}, {"steps": ((8, 7),)}])
def test_locations_elsewhere_than_at_multiples_of_the_stride_are_refused(placing):
    lattice, truth = Lattice(((4, 4),), (8,), **placing), truth_of([[0.0, 0.0, 30.0, 30.0]])
    for assign in (assign_atss, assign_center_region, lambda *args: assign_max_iou(*args, anchor_shapes((8,)))):
        with pytest.raises(ValueError, match="expected neither steps nor a shift"):
            assign(truth, lattice)
