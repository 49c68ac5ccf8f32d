"""The recipe step by step: learning rates, weight decay, and the moving average of the weights."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from focaldet.data.batching import Sample, collate
from focaldet.engine.config import TrainConfig
from focaldet.engine.module import DetectionModule
from focaldet.engine.optimizer import ema_decay, lr_factor, parameter_groups
from focaldet.engine.spec import ModelSpec

STEPS_AN_EPOCH = 10

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning",  # its advice: more workers, a logger
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)


class Watch(L.Callback):
    """The recipe of a run at each step.

    Args:
        groups: (peak learning rate, weight decay) of each parameter by name, at the first step.
        factors: factor on the peak learning rates at each step.
        states: the network's state after each step.
    """

    def __init__(self) -> None:
        self.groups: dict[str, tuple[float, float]] = {}
        self.factors: list[float] = []
        self.states: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
        groups = optimizer.param_groups
        if not self.groups:
            names = {parameter: name for name, parameter in module.net.named_parameters()}
            for group in groups:
                for parameter in group["params"]:
                    self.groups[names.pop(parameter)] = (group["peak_lr"], group["weight_decay"])
            assert not names  # each parameter is in a group
        (factor,) = {round(group["lr"] / group["peak_lr"], 12) for group in groups}
        self.factors.append(factor)

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.states.append({name: value.clone() for name, value in module.net.state_dict().items()})


def trained(checkpoint: Path | None = None, **options: Any) -> tuple[DetectionModule, Watch]:
    """A run of a small network on photos of noise, started or resumed."""
    torch.manual_seed(0)
    spec = ModelSpec("gfl", ("a", "b"), "test_resnet", 64, 16, 1)
    config = TrainConfig(data="", **{"batch": 2, "lr": 1e-3, "epochs": 1} | options)
    net, method = spec.build(prior_prob=0.05)
    box, none = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.zeros(0, 4)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    samples = [Sample(index, image, box, torch.tensor([index % 2]), none) for index in range(2 * STEPS_AN_EPOCH)]
    watch = Watch()
    module = DetectionModule(net, method, config)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=config.epochs,
        callbacks=[watch, module.budget],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(samples, batch_size=2, collate_fn=collate), ckpt_path=checkpoint)
    return module, watch


@pytest.mark.parametrize(("warmup", "steps"), [(50, 3), (2, 2)])
def test_learning_rate_warms_up_for_a_tenth_of_the_run_at_most_and_falls_by_a_cosine_to_a_hundredth(warmup, steps):
    _, watch = trained(epochs=3, warmup=warmup)
    total = 3 * STEPS_AN_EPOCH
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * step / total)) / 2 for step in range(total)]
    assert watch.factors == pytest.approx([min(1, (step + 1) / steps) * cosine[step] for step in range(total)])


def test_a_run_of_minutes_follows_the_clock_and_its_warm_up_is_not_shortened():
    _, watch = trained(minutes=1000.0, warmup=4)
    assert watch.factors == pytest.approx([min(1, (step + 1) / 4) for step in range(STEPS_AN_EPOCH)], abs=1e-3)


def test_a_run_of_minutes_ends_after_the_step_in_which_they_are_over():
    module, watch = trained(minutes=1e-6)
    assert len(watch.factors) == 1
    assert module.progress <= 1


def test_learning_rate_follows_the_root_of_the_batch_and_the_backbone_has_its_own_factor():
    module, watch = trained(batch=2, lr=1e-3, backbone_lr=0.1, weight_decay=0.05)
    assert any(name.startswith("backbone.") for name in watch.groups)
    for name, parameter in module.net.named_parameters():
        peak = 1e-3 * math.sqrt(2 / 8) * (0.1 if name.startswith("backbone.") else 1)
        decay = 0.05 if parameter.ndim > 1 else 0  # biases and the factors of norms are not drawn to 0
        assert watch.groups[name] == pytest.approx((peak, decay)), name


def test_the_average_has_a_short_memory_at_first_and_ema_later():
    module, watch = trained(ema=0.3, lr=0.01)
    expected = {name: value.double() for name, value in watch.states[0].items()}
    for count, state in enumerate(watch.states[1:], start=1):
        weight = min(0.3, (1 + count) / (10 + count))
        for name, value in state.items():
            whole = not value.is_floating_point()
            expected[name] = value.double() if whole else weight * expected[name] + (1 - weight) * value.double()
    assert min(0.3, 2 / 11) < 0.3 < (1 + len(watch.states)) / (10 + len(watch.states))  # both kinds of step
    moved = 0
    for name, value in module.average_net.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
        moved += not torch.allclose(value, watch.states[-1][name], rtol=1e-4, atol=1e-5)
    assert moved > 10  # the network is not its average; running means of norms are averaged too


def test_a_run_that_goes_on_has_the_options_of_now(tmp_path):
    module, before = trained(lr=1e-3, weight_decay=0.05)
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, after = trained(tmp_path / "last.ckpt", lr=1e-4, weight_decay=0.2, epochs=2)
    assert len(after.factors) == STEPS_AN_EPOCH
    for name, (peak, decay) in before.groups.items():
        assert after.groups[name] == pytest.approx((peak / 10, decay * 4)), name


@pytest.mark.parametrize(
    ("progress", "step", "warmup", "factor"),
    [
        (0.0, 0, 10, 0.1),  # the first step of the warm-up is not 0
        (0.0, 9, 10, 1.0),
        (0.0, 0, 0, 1.0),  # no warm-up
        (0.5, 99, 10, 0.505),  # halfway between 1 and FINAL_LR
        (1.0, 99, 10, 0.01),
        (1.2, 99, 10, 0.01),  # a last step beyond the budget
        (0.5, 0, 2, 0.2525),  # both factors
    ],
)
def test_factor_of_the_learning_rate_is_warm_up_times_cosine(progress, step, warmup, factor):
    assert lr_factor(progress, step, warmup) == pytest.approx(factor)


def test_parameters_are_grouped_by_learning_rate_and_weight_decay():
    net = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 3), "head": torch.nn.Linear(3, 1)})
    groups = parameter_groups(net, lr=1e-3, batch=32, backbone_lr=0.1, weight_decay=0.05)
    expected = {
        (2e-4, 0.05): [net["backbone"].weight],
        (2e-4, 0.0): [net["backbone"].bias],
        (2e-3, 0.05): [net["head"].weight],
        (2e-3, 0.0): [net["head"].bias],
    }
    assert [pytest.approx(key) for key in groups] == list(expected)
    for own, other in zip(groups.values(), expected.values(), strict=True):
        assert [id(parameter) for parameter in own] == [id(parameter) for parameter in other]


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (10, 11 / 20), (80, 0.9), (1000, 0.9)])
def test_decay_of_the_average_rises_to_its_limit(step, decay):
    assert ema_decay(step, 0.9) == pytest.approx(decay)
