"""Costs of a training step besides the network: its number of operators, and how often it waits for a value."""

from typing import Any

import lightning as L
import pytest
import torch
from counting import Operators, counted
from torch.utils.data import DataLoader

from focaldet.data.batching import Sample, collate
from focaldet.engine.config import TrainConfig
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import METHODS, ModelSpec
from focaldet.methods.chosen import ChosenByPredictions
from focaldet.methods.targets import TargetCollate, TrainingBatch

STEPS = 20

BEFORE = {"retinanet": 1049, "fcos": 857, "atss": 1155, "gfl": 1183, "gflv2": 1218, "tood": 1459}
"""Operators of ``training_step`` without the network, on the same batch, when the assignment was made in it."""
BEFORE["rtmdet"] = BEFORE["tood"]  # it came later, and may need no more

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning",  # its advice: more workers, a logger
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)


CHOSEN = [name for name, kind in METHODS.items() if issubclass(kind, ChosenByPredictions)]
"""Methods in which predictions choose the positives."""


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(name, ("a", "b"), "test_resnet", 128, 16, 1)


def module_of(name: str) -> DetectionModule:
    torch.manual_seed(0)
    net, method = spec_of(name).build(prior_prob=0.05)
    return DetectionModule(net, method, TrainConfig(data="", batch=3, epochs=1))


def samples() -> list[Sample]:
    """Objects of every level, an image without one, an ignored region, and one image smaller than the others."""
    torch.manual_seed(1)
    boxes = torch.tensor([[8.0, 8, 40, 40], [2, 2, 126, 120], [60, 60, 90, 80], [30, 4, 44, 20]])
    none = torch.zeros(0, 4)
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    return [
        Sample(0, image, boxes, torch.tensor([0, 1, 0, 1]), none),
        Sample(1, image, none, torch.zeros(0, dtype=torch.int64), boxes[:1]),
        Sample(2, image[:, :96, :112].contiguous(), boxes[2:], torch.tensor([1, 0]), none),
    ]


def batch_of(module: DetectionModule) -> TrainingBatch:
    return TargetCollate(module.method, module.net, module.offset)(samples())


def step_counts(module: DetectionModule, batch: Any) -> Operators:
    """Of one ``training_step``, without the network's forward pass."""
    with counted() as operators:
        forward = module.net.forward

        def uncounted(images: torch.Tensor) -> Any:
            with operators.without():
                return forward(images)

        module.net.forward = uncounted  # type: ignore[method-assign]
        module.training_step(batch, 1)
        del module.net.forward
    return operators


@pytest.mark.parametrize("name", METHODS)
def test_a_step_has_a_third_of_the_operators_beside_the_network_and_looks_at_no_value(name: str) -> None:
    """But at how many positives predictions have chosen."""
    module = module_of(name)
    module.progress = 0.5
    counts = step_counts(module, batch_of(module))
    assert counts.looks == (["nonzero"] if name in CHOSEN else [])
    assert len(counts.names) <= BEFORE[name] / 3


@pytest.mark.parametrize("name", METHODS)
def test_without_targets_they_are_made_in_the_step_and_the_losses_are_the_same(name: str) -> None:
    module, made = module_of(name), module_of(name)
    batch = batch_of(module)
    other = made.training_step(module.transfer_batch_to_device(collate(samples()), torch.device("cpu"), 0), 0)
    own = module.training_step(batch, 0)
    assert module.terms.last == made.terms.last
    assert own["result"] == other["result"]
    assert own["result"].objects == 6


@pytest.mark.parametrize("name", ["gfl", "retinanet"])
def test_a_run_looks_at_values_once_in_ten_steps(name: str) -> None:
    """Forward, backward, optimiser, moving average, learning rate, counters and what Lightning does around them."""
    module = module_of(name)
    batches = [batch_of(module) for _ in range(STEPS)]
    starts: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            starts.append(len(operators.looks))

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with counted() as operators:
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == STEPS
    assert operators.looks[starts[1] : starts[-1]] == ["tolist"]  # the tenth step's; the first is the start's
    assert len(module.terms.last) > 1
