import numpy as np
import pytest
import torch

from focaldet.study.neuron import LABELS, STARTS, neuron_numbers


@pytest.fixture(scope="module")
def numbers():
    return neuron_numbers()


def curve(numbers, cost, start):
    return next(c for c in numbers["curves"] if (c["cost"], c["start"]) == (cost, start))


def test_gradients_are_those_of_the_derivation(numbers):
    for start, (weight, bias) in STARTS.items():
        a = 1 / (1 + np.exp(-(weight + bias)))
        assert curve(numbers, "quadratic", start)["gradients"][0] == pytest.approx(a * a * (1 - a), rel=1e-5)
        assert curve(numbers, "cross entropy", start)["gradients"][0] == pytest.approx(a, rel=1e-5)


def test_only_the_quadratic_cost_is_slow_from_a_saturated_start(numbers):
    steps = {(c["cost"], c["start"]): c["steps_to_half"] for c in numbers["curves"]}
    assert steps["quadratic", "saturated"] > 4 * steps["quadratic", "near"]
    assert steps["cross entropy", "saturated"] < 2 * steps["cross entropy", "near"]


def test_a_learning_curve_falls_all_the_way(numbers):
    for c in numbers["curves"]:
        assert len(c["outputs"]) == len(c["gradients"]) == len(c["cost_values"]) == 300
        assert np.all(np.diff(c["outputs"]) < 0)


def test_gradients_of_the_family_are_slopes_of_its_curves(numbers):
    z = np.array(numbers["logits"])
    smooth = [c for c in numbers["family"] if c["parameters"].get("beta") != 1]  # which has a kink at its minimum
    for c in smooth:
        slopes = np.gradient(np.array(c["values"]), z)
        inner = slice(1, -1)
        assert np.abs(slopes - c["gradients"])[inner].max() < 0.02, c["title"]


def test_curves_of_the_family_are_told_apart_by_title_and_target(numbers):
    names = [(c["title"], c["target"]) for c in numbers["family"]]
    assert len(set(names)) == len(names) == 22


def test_quality_focal_loss_is_least_where_the_score_is_the_quality(numbers):
    z = np.array(numbers["logits"])
    for c in numbers["family"]:
        if c["loss"] == "quality_focal_loss" and 0 < c["target"] < 1:
            least = torch.tensor(z[int(np.argmin(c["values"]))]).sigmoid()
            assert float(least) == pytest.approx(c["target"], abs=0.02)


def test_distribution_focal_loss_is_least_at_the_label(numbers):
    assert [c["minimum_at"] for c in numbers["distribution"]] == list(LABELS)
