"""Check whether a device computes everything a detector needs, by training a small one on it for two steps."""

from functools import cache

import torch
from torch import Tensor

from focaldet.checks import one_line
from focaldet.data.batching import Sample
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import ModelSpec
from focaldet.methods.targets import TargetCollate, TrainingBatch

SIZE = 64
"""Longer side of the images, px."""

MAX_DIFFERENCE = 0.01
"""Largest accepted difference of a loss from the CPU's, as a share of it."""


@cache
def fault_of(device: torch.device, method: str) -> str | None:
    """Why a method cannot be trained or used on a device, or ``None``.

    The same two steps run on the CPU, and the second loss depends on the gradients of the first. So the trial finds
    missing operators, and operators with other results.

    >>> fault_of(torch.device("cpu"), "gfl")
    """
    expected = _losses(torch.device("cpu"), method)
    try:
        losses = _losses(device, method)
    except Exception as error:  # torch and drivers raise different classes
        return one_line(error)
    for step, (loss, right) in enumerate(zip(losses, expected, strict=True)):
        if not abs(loss - right) <= MAX_DIFFERENCE * right:
            return f"the loss of step {step} of a trial is {loss:.6g}, and {right:.6g} on the CPU"
    return None


def take_step(module: DetectionModule, batch: TrainingBatch, optimizer: torch.optim.Optimizer, index: int) -> Tensor:
    """Train a module for one step without Lightning's trainer; returns the loss, detached."""
    loss = module.training_step(batch, index)["loss"]
    optimizer.zero_grad()
    loss.backward()
    module.configure_gradient_clipping(optimizer)
    optimizer.step()
    module.average.update(module.net)
    detached: Tensor = loss.detach()
    return detached


def _losses(device: torch.device, name: str) -> list[float]:
    """The losses of two steps, followed by one detection."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = ModelSpec(name, ("a", "b"), "test_resnet", SIZE, 16, 1)
        net, method = spec.build(prior_prob=0.05)
        images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    module = DetectionModule(net, method, TrainConfig(data="", batch=2, epochs=1)).to(device)
    boxes = torch.tensor([[8.0, 8, 40, 40], [2, 2, 62, 50], [30, 4, 44, 20]])
    samples = [
        Sample(0, images[0], boxes, torch.tensor([0, 1, 0]), torch.zeros(0, 4)),
        Sample(1, images[1], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), boxes[:1]),
    ]
    batch = module.transfer_batch_to_device(TargetCollate(method, net, module.offset)(samples), device, 0)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    losses = []
    for step in range(2):
        losses.append(float(take_step(module, batch, optimizer, step)))
    detector = Detector(spec, module.average_net, method, score_threshold=0.001)
    detector.detect([detector.prepare(images[0].permute(1, 2, 0).numpy())])
    return losses
