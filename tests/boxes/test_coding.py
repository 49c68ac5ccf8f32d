import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from focaldet.boxes.coding import (
    decode_deltas,
    decode_distances,
    distribution_mean,
    distribution_std,
    encode_deltas,
    encode_distances,
)


def random_case(count=200, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 2, generator=generator, dtype=dtype) * 640
    strides = 2.0 ** torch.randint(3, 8, (count,), generator=generator).to(dtype)
    corners = torch.rand(count, 2, 2, generator=generator, dtype=dtype) * 640
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    return points, strides, boxes


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
def test_decode_inverts_encode(dtype, tolerance):
    points, strides, boxes = random_case(dtype=dtype)
    distances = encode_distances(points, strides, boxes)
    assert (distances < 0).any(), "points outside of their box belong to the case"
    torch.testing.assert_close(decode_distances(points, strides, distances), boxes, rtol=0, atol=tolerance)


def test_encode_inverts_decode_for_any_distances():
    points, strides, _ = random_case()
    distances = torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 9
    boxes = decode_distances(points, strides, distances)
    torch.testing.assert_close(encode_distances(points, strides, boxes), distances, rtol=0, atol=1e-12)


def test_distances_are_left_top_right_bottom_in_strides():
    distances = encode_distances(torch.tensor([[20.0, 40]]), torch.tensor([4.0]), torch.tensor([[12.0, 28, 36, 60]]))
    assert distances.tolist() == [[2, 3, 4, 5]]


def moments(logits, bins):
    """Mean and standard deviation of the softmax, written out in float64."""
    weight = (logits.double() - logits.double().amax(dim=-1, keepdim=True)).exp()
    probs = weight / weight.sum(dim=-1, keepdim=True)
    i = torch.arange(bins, dtype=torch.float64)
    mean = (probs * i).sum(dim=-1)
    return mean, ((probs * i * i).sum(dim=-1) - mean * mean).clamp(min=0).sqrt()


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("bins", [2, 17])
def test_mean_and_deviation_of_distributions_match_float64(scale, bins):
    logits = torch.randn(300, 4, bins, generator=torch.Generator().manual_seed(2)) * scale
    mean, deviation = moments(logits, bins)
    torch.testing.assert_close(distribution_mean(logits).double(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(distribution_std(logits).double(), deviation, rtol=1e-4, atol=1e-3)


def test_certain_distribution_has_its_bin_as_mean_and_no_deviation():
    logits = torch.full((17, 17), -1e4).fill_diagonal_(1e4)
    assert torch.equal(distribution_mean(logits), torch.arange(17.0))
    assert torch.equal(distribution_std(logits), torch.zeros(17))


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.randn(50, 17, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert distribution_mean(logits).dtype == torch.float32
    assert torch.equal(distribution_mean(logits), distribution_mean(logits.float()))
    assert torch.equal(distribution_std(logits), distribution_std(logits.float()))


def test_no_location_gives_empty_boxes():
    none = torch.zeros(0, 4, 17)
    assert distribution_mean(none).shape == (0, 4)
    assert decode_distances(torch.zeros(0, 2), torch.zeros(0), distribution_mean(none)).shape == (0, 4)


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_deltas_are_those_of_torchvision(stds):
    _, _, boxes = random_case()
    _, _, anchors = random_case(seed=1)
    coder = BoxCoder(weights=tuple(1 / s for s in stds))
    deltas = encode_deltas(anchors, boxes, stds)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(decode_deltas(anchors, deltas, stds), coder.decode_single(deltas, anchors))
    near = ((boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2]) < 60).all(dim=1)
    assert 150 < int(near.sum()) < 200, "boxes too large for their anchor belong to the case"
    torch.testing.assert_close(decode_deltas(anchors, deltas, stds)[near], boxes[near])
    wild = torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 20
    torch.testing.assert_close(decode_deltas(anchors, wild, stds), coder.decode_single(wild, anchors))
