import math

import pytest
import torch

from focaldet import SparseTargets, quality_focal_loss
from focaldet.models.head import DenseHead
from focaldet.models.joint import joint_logits


def pyramid(channels=16, batch=2, shapes=((8, 12), (4, 6), (2, 3), (1, 2), (1, 1)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, *shape, generator=generator) for shape in shapes]


@pytest.fixture
def head():
    torch.manual_seed(0)
    return DenseHead(16, num_classes=7, num_box_channels=68, quality_branch="centerness")


@pytest.mark.parametrize("prior_prob", [0.01, 0.1])
def test_every_class_probability_starts_near_the_prior(prior_prob):
    torch.manual_seed(0)
    head = DenseHead(64, num_classes=20, num_box_channels=4, prior_prob=prior_prob)
    with torch.no_grad():
        probs = torch.cat([level.flatten().sigmoid() for level in head(pyramid(64)).class_logits])
    assert prior_prob / 3 < float(probs.min()) < float(probs.max()) < prior_prob * 3
    assert float(probs.mean()) == pytest.approx(prior_prob, rel=0.05)
    assert head.class_logits.bias.tolist() == pytest.approx([math.log(prior_prob / (1 - prior_prob))] * 20)


@pytest.mark.parametrize("channels", [2, 16, 24, 32, 64])
def test_location_of_a_one_by_one_map_is_not_normalised_away(channels):
    """A group of one channel has one value there: its deviation from its own mean says nothing."""
    torch.manual_seed(0)
    head = DenseHead(channels, 2, 4, num_levels=1, depth=1)
    one, other = (head(pyramid(channels, batch=1, shapes=((1, 1),), seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.class_logits[0], other.class_logits[0])


def test_towers_of_the_papers_width_have_their_32_groups():
    assert {m.num_groups for m in DenseHead(256, 2, 4).modules() if isinstance(m, torch.nn.GroupNorm)} == {32}


def test_maps_have_their_channels_and_the_levels_shapes(head):
    levels = pyramid()
    outputs = head(levels)
    assert outputs.level_shapes == tuple(tuple(level.shape[2:]) for level in levels)
    for maps, channels in ((outputs.class_logits, 7), (outputs.box_maps, 68), (outputs.quality_logits, 1)):
        assert [tuple(m.shape) for m in maps] == [(2, channels, *level.shape[2:]) for level in levels]


def test_quality_branch_is_there_only_when_asked_for():
    head = DenseHead(16, num_classes=2, num_box_channels=4)
    assert head(pyramid()).quality_logits is None
    assert not [name for name, _ in head.named_parameters() if "quality" in name]


def test_each_level_scales_its_own_boxes_and_nothing_else(head):
    levels = pyramid()
    before = head(levels)
    with torch.no_grad():
        head.scales[1].factor.fill_(3.0)
    after = head(levels)
    for level in range(5):
        factor = 3.0 if level == 1 else 1.0
        torch.testing.assert_close(after.box_maps[level], before.box_maps[level] * factor)
        assert torch.equal(after.class_logits[level], before.class_logits[level])
        assert torch.equal(after.quality_logits[level], before.quality_logits[level])


def test_towers_are_shared_by_the_levels(head):
    same = [pyramid(shapes=((5, 5),))[0]] * 5
    outputs = head(same)
    assert all(torch.equal(level, outputs.class_logits[0]) for level in outputs.class_logits)
    assert all(torch.equal(level, outputs.box_maps[0]) for level in outputs.box_maps)


def test_class_and_box_towers_are_separate(head):
    outputs = head(pyramid())
    sum(level.sum() for level in outputs.class_logits).backward()
    assert all(parameter.grad is not None for parameter in head.class_tower.parameters())
    assert all(parameter.grad is None for parameter in head.box_tower.parameters())


def test_depth_counts_the_convolutions_of_a_tower():
    def convolutions(depth):
        head = DenseHead(16, 2, 4, depth=depth)
        return sum(isinstance(m, torch.nn.Conv2d) for m in head.class_tower)

    assert [convolutions(depth) for depth in (0, 1, 4)] == [0, 1, 4]


def test_as_many_levels_as_promised_are_asked_for(head):
    with pytest.raises(ValueError, match="zip"):
        head(pyramid()[:4])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hidden_units_of_the_distribution_quality_live_through_the_first_steps(seed):
    torch.manual_seed(seed)
    head = DenseHead(16, num_classes=3, num_box_channels=36, num_levels=1, depth=1, quality_branch="distribution")
    level = torch.randn(4, 16, 20, 20)
    positive = torch.rand(4, 400) < 0.05
    labels = torch.where(positive, torch.randint(3, (4, 400)), -1)
    targets = SparseTargets(labels, torch.where(positive, 0.4 + 0.5 * torch.rand(4, 400), 0.0))
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(60):
        outputs = head([level])
        joint = joint_logits(outputs.class_logits[0], outputs.quality_logits[0])
        optimizer.zero_grad()
        quality_focal_loss([joint], targets, reduction="sum", normalizer=float(positive.sum())).backward()
        optimizer.step()
    active = []
    head.quality.layers[1].register_forward_hook(lambda module, args, output: active.append((output > 0).any(0)))
    head([level])
    assert int(active[0].flatten(1).any(1).sum()) >= 28  # of 64; 16 to 21 when they begin at weights of .01
