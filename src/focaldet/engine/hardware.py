"""Hardware settings of a run: repeatable or fast algorithms, a compiled network, and a batch that fits."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from focaldet.checks import InputError
from focaldet.data.batching import Sample
from focaldet.engine.config import TrainConfig
from focaldet.engine.devices import choose_device, native_precision
from focaldet.engine.module import DetectionModule
from focaldet.methods.method import Method
from focaldet.methods.targets import TargetCollate
from focaldet.models.detector import DenseDetector

OBJECTS = 20
"""Objects per image in the test batches of ``--batch auto``."""

MAX_IMAGES = 1024
"""Largest batch that ``--batch auto`` tries."""

ROOM = 0.9
"""Share of the largest batch that fits, used as the batch: other photos have more objects."""


def algorithms(config: TrainConfig, *, one_size: bool) -> dict[str, Any]:
    """Options of the trainer that choose algorithms.

    On a CPU, runs are reproducible at no cost. On CUDA, that is an option; without it, float32 products are rounded to
    TF32. If all photos have one size, the fastest convolutions are also searched for, which takes seconds for each
    size.
    """
    # With deterministic algorithms, torch fills new memory with NaN. Only code that reads uninitialised memory needs
    # that.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    fast = choose_device(config.device, config.method).type == "cuda" and not config.deterministic
    torch.set_float32_matmul_precision("high" if fast else "highest")
    return {"deterministic": False, "benchmark": one_size} if fast else {"deterministic": "warn", "benchmark": False}


def choose_precision(config: TrainConfig) -> str:
    """Precision of a run; ``auto`` is the native precision of its device."""
    if config.precision != "auto":
        return config.precision
    return native_precision(choose_device(config.device, config.method))


def compile_network(net: DenseDetector, *, backend: str = "inductor") -> None:
    """Compile the parts of a network. The names of its weights do not change."""
    for part in (net.backbone, net.neck, net.head):
        part.compile(backend=backend)


def largest_batch(net: DenseDetector, method: Method, config: TrainConfig, *, offset: float) -> int:
    """The number of images of ``--batch auto``.

    Raises:
        InputError: the device is not a CUDA GPU, there are several processes, or not even one image fits.
    """
    device = choose_device(config.device, config.method)
    if device.type != "cuda":
        raise InputError(f"--batch auto: needs a CUDA GPU, and this run is on {device.type}; give a number")
    if config.devices * config.nodes > 1:
        raise InputError("--batch auto: needs devices 1 and nodes 1; give a number")
    module = DetectionModule(copy.deepcopy(net), method, replace(config, batch=1, accumulate=1), offset=offset)
    module.to(device)
    optimizer = torch.optim.AdamW(module.net.parameters(), fused=True)
    collate = TargetCollate(method, net, offset)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(choose_precision(config))

    def fits(images: int) -> bool:
        try:
            batch = module.transfer_batch_to_device(collate([_sample(config.size)] * images), device, 0)
            with torch.autocast("cuda", dtype, enabled=dtype is not None):
                loss = module.training_step(batch, 1)["loss"]
            loss.backward()
            optimizer.step()
        except torch.OutOfMemoryError:
            return False
        finally:
            optimizer.zero_grad()
            torch.cuda.empty_cache()
        return True

    return most_that_fit(fits)


def most_that_fit(fits: Callable[[int], bool]) -> int:
    """The batch for a device, given a test whether a number of images fits.

    >>> most_that_fit(lambda images: images <= 43)
    37

    Raises:
        InputError: not even one fits.
    """
    if not fits(1):
        raise InputError("--batch auto: not even one image fits into the GPU's memory; use a smaller --size")
    low = 1
    while low < MAX_IMAGES and fits(2 * low):
        low *= 2
    high = 2 * low  # does not fit, or exceeds the limit of the search
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return max(1, int(ROOM * min(low, MAX_IMAGES)))


def _sample(size: int) -> Sample:
    """A noise image with boxes of many sizes."""
    corners = torch.linspace(0, size / 2, OBJECTS).repeat(2, 1).T
    sides = torch.linspace(8, size / 2, OBJECTS).flip(0)[:, None]
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    labels = torch.zeros(OBJECTS, dtype=torch.int64)
    return Sample(0, image, torch.cat([corners, corners + sides], dim=1), labels, torch.zeros(0, 4))
