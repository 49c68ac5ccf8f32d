import math

import pytest
import torch

from focaldet.checks import InputError
from focaldet.engine.beginning import first_detector
from focaldet.engine.config import TrainConfig
from focaldet.engine.spec import METHODS, spec_of

TINY = {"data": "cells", "backbone": "mobilenetv3_small_050", "size": 64, "channels": 16, "head_depth": 1}


@pytest.mark.parametrize("method", METHODS)
def test_options_of_the_losses_reach_the_method(method):
    config = TrainConfig(**TINY, method=method, alpha=None, gamma=1.5, beta=0.5)
    _, made = spec_of(config, ("cell",)).build()
    assert (made.alpha, made.gamma, made.beta) == (None, 1.5, 0.5)


@pytest.mark.parametrize("prior_prob", [0.01, 0.5])
def test_every_class_begins_with_the_prior_probability(prior_prob):
    _, net, _ = first_detector(TrainConfig(**TINY, prior_prob=prior_prob), ("cell", "other"))
    bias = net.head.class_logits.bias
    assert bias.tolist() == pytest.approx([math.log(prior_prob / (1 - prior_prob))] * 2, abs=1e-6)


def test_a_run_begins_with_the_same_weights_whenever_it_is_asked():
    config = TrainConfig(**TINY, seed=3)
    first, again = (first_detector(config, ("cell",))[1].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("field", "value"), [("gamma", -1.0), ("beta", -0.5), ("alpha", 1.5), ("prior_prob", 1.0), ("prior_prob", 0.0)]
)
def test_an_option_out_of_its_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=rf"^{field}: expected .* got {value}"):
        TrainConfig(**TINY, **{field: value})
