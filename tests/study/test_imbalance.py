import math

import pytest
import torch

from focaldet.boxes.locations import flatten_levels
from focaldet.data.batching import Batch
from focaldet.engine.config import TrainConfig
from focaldet.engine.spec import spec_of
from focaldet.structures import GroundTruth
from focaldet.study.imbalance import (
    FRACTIONS,
    cumulative,
    curves,
    focal_by_location,
    hardest_share,
    imbalance,
    location_losses,
)

TINY = {"data": "cells", "backbone": "mobilenetv3_small_050", "size": 64, "channels": 16, "head_depth": 1}


def batch_of(boxes, num_images=2):
    """Grey photos of 64 pixels; each box is (image, x1, y1, x2, y2)."""
    found = torch.tensor(boxes, dtype=torch.float32).view(-1, 5)
    truth = GroundTruth(
        found[:, 1:],
        torch.zeros(len(found), dtype=torch.int64),
        found[:, 0].long(),
        num_images,
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
    )
    images = torch.full((num_images, 3, 64, 64), 128, dtype=torch.uint8)
    return Batch(images, torch.full((num_images, 2), 64), truth)


def losses_of(boxes=((0, 8, 8, 40, 48), (1, 20, 4, 60, 60)), **options):
    torch.manual_seed(0)
    config = TrainConfig(**TINY, **options)
    spec = spec_of(config, ("cell", "other"))
    net, method = spec.build(prior_prob=config.prior_prob)
    return location_losses(net.eval(), method, [batch_of(boxes)])


def test_own_loss_of_cross_entropy_is_the_curve_of_gamma_zero():
    locations = losses_of(method="retinanet", class_loss="bce")
    assert locations.is_object.any()
    assert locations.own_background == pytest.approx(float(locations.losses[0.0][~locations.is_object].sum()), rel=1e-4)
    assert locations.own_objects == pytest.approx(float(locations.losses[0.0][locations.is_object].sum()), rel=1e-3)
    torch.testing.assert_close(locations.own_gradient, locations.gradients[0.0])


def test_own_loss_of_focal_loss_has_three_quarters_of_the_background():
    locations = losses_of(method="atss", class_loss="focal")
    background = ~locations.is_object
    assert locations.own_background == pytest.approx(0.75 * float(locations.losses[2.0][background].sum()), rel=1e-4)
    torch.testing.assert_close(locations.own_gradient[background], 0.75 * locations.gradients[2.0][background])


@pytest.mark.parametrize("method", ["atss", "gfl", "gflv2"])
def test_own_loss_of_quality_focal_loss_is_focal_on_the_background(method):
    locations = losses_of(method=method, class_loss="quality_focal", beta=1.5)
    assert locations.own_gamma == 1.5
    assert locations.own_background == pytest.approx(float(locations.losses[1.5][~locations.is_object].sum()), rel=1e-3)


def test_without_the_prior_the_background_has_nearly_all_of_the_first_gradient():
    before, after = (
        imbalance(losses_of([(0, 8, 8, 40, 48)], method="atss", class_loss="bce", prior_prob=prior))
        for prior in (0.5, 0.01)
    )
    count = before["background_sites"] / before["object_sites"]
    # Two classes: at a half each location of the background pulls with 2 x 1/2, each location of an object with 1/2 +
    # 1/2.
    assert before["own"]["gradient_share"] == pytest.approx(count / (count + 1), abs=0.02)
    # At .01 with 2 x .01 and with .99 + .01.
    assert after["own"]["gradient_share"] == pytest.approx(0.02 * count / (0.02 * count + 1), abs=0.02)


def test_locations_are_all_of_the_photos_own():
    shares = imbalance(losses_of(method="atss", class_loss="focal"))
    places = 2 * (64 + 16 + 4 + 1 + 1)
    assert shares["background_sites"] + shares["object_sites"] == places


def test_photos_without_an_object_are_all_background():
    locations = losses_of((), method="gfl", class_loss="quality_focal")
    shares = imbalance(locations)
    assert shares["object_sites"] == 0
    assert shares["own"]["loss_share"] == pytest.approx(1)
    assert all(curve["objects"] is None for curve in curves(locations)["losses"])


def test_focal_loss_by_location_is_the_formula():
    z = torch.tensor([[2.0, -1.0]])
    p, q = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(1.0))
    loss, gradient = focal_by_location(z, torch.tensor([0]), 2.0)
    assert float(loss) == pytest.approx(-((1 - p) ** 2) * math.log(p) - q**2 * math.log(1 - q))
    own = (1 - p) ** 2 * (2 * p * math.log(p) + p - 1)
    other = q**2 * (q - 2 * (1 - q) * math.log(1 - q))
    assert float(gradient) == pytest.approx(abs(own) + abs(other))


def test_more_gamma_leaves_the_loss_to_fewer_locations_of_the_background():
    locations = losses_of(method="retinanet", class_loss="bce")
    background = ~locations.is_object
    shares = [hardest_share(locations.losses[gamma][background], 0.1) for gamma in (0.0, 1.0, 2.0, 5.0)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_cumulative_curves_end_at_everything_and_bend_below_the_diagonal():
    for curve in curves(losses_of(method="retinanet", class_loss="bce"))["losses"]:
        assert curve["background"][0] == 0
        assert curve["background"][-1] == 1
        assert all(y <= x + 1e-6 for x, y in zip(FRACTIONS, curve["background"], strict=True))


def test_no_location_has_no_curve():
    assert cumulative(torch.zeros(0), [1.0]) is None
    assert cumulative(torch.zeros(3), [1.0]) is None


def test_looking_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    net, method = spec_of(TrainConfig(**TINY), ("cell",)).build()
    net.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    location_losses(net, method, [batch_of([(0, 8, 8, 40, 48)])])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert flatten_levels(net(batch_of([]).images).class_logits, 1).shape[1] == 86
