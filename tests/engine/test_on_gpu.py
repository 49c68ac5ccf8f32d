"""Training and detecting on a CUDA GPU: as on the CPU, in each precision, without a wait, and on two GPUs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_step_counts import CHOSEN, batch_of, module_of, samples, spec_of

from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.hardware import largest_batch
from focaldet.engine.module import DetectionModule
from focaldet.engine.spec import METHODS
from focaldet.engine.train import train
from focaldet.methods.targets import TrainingBatch
from focaldet.runtime.model import NetworkInput

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)
pytestmark = pytest.mark.gpu

every_method = pytest.mark.parametrize("name", METHODS)


def on(device: str, name: str) -> tuple[DetectionModule, TrainingBatch, torch.optim.Optimizer]:
    """A module on a device, with its batch and its optimiser."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    module = module_of(name).to(device)
    batch = module.transfer_batch_to_device(batch_of(module), torch.device(device), 0)
    optimizer = torch.optim.AdamW([{"params": made} for made in module.parameter_groups().values()], fused=True)
    return module, batch, optimizer


def step(
    module: DetectionModule, batch: TrainingBatch, optimizer: torch.optim.Optimizer, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """A training step as Lightning makes it; its loss stays on the device."""
    with torch.autocast(batch.images.device.type, dtype, enabled=dtype is not None):
        loss: torch.Tensor = module.training_step(batch, 1)["loss"]
    optimizer.zero_grad()
    loss.backward()
    module.configure_gradient_clipping(optimizer)
    optimizer.step()
    module.average.update(module.net)
    return loss.detach()


@every_method
def test_steps_are_those_of_the_cpu(name: str) -> None:
    losses = {device: [float(step(*made)) for made in [on(device, name)] * 3] for device in ("cpu", "cuda")}
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)
    assert losses["cpu"][2] < losses["cpu"][0]


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_in_half_precision_is_near_that_of_float32(name: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU does not compute bfloat16")
    single, half = (float(step(*on("cuda", name), made)) for made in (None, dtype))
    assert half == pytest.approx(single, rel=0.02)


@every_method
def test_a_step_never_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the number of positives that predictions have chosen."""
    made = on("cuda", name)
    made[0].progress = 0.5
    step(*made)  # compiles
    count = torch.Tensor.nonzero

    def counted(mask: torch.Tensor) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("default")
        found = count(mask)
        torch.cuda.set_sync_debug_mode("error")
        return found

    if name in CHOSEN:
        monkeypatch.setattr(torch.Tensor, "nonzero", counted)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*made)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_method
def test_boxes_are_those_of_the_cpu(name: str) -> None:
    module, _, _ = on("cpu", name)
    detector = Detector(spec_of(name), module.net, module.method, score_threshold=0.01)
    inputs = [NetworkInput(sample.image, (128, 128), (128, 128)) for sample in samples()[:2]]
    here = detector.detect(inputs)
    there = detector.to("cuda").detect(inputs)
    for one, other in zip(here, there, strict=True):
        assert len(one.scores) == pytest.approx(len(other.scores), abs=2)
        assert one.scores[:5] == pytest.approx(other.scores[:5], abs=1e-3)


def test_the_largest_batch_fits_and_is_more_than_one() -> None:
    module, _, _ = on("cpu", "gfl")
    images = largest_batch(module.net, module.method, TrainConfig(data="", size=128, device="cuda"), offset=0.5)
    assert images > 8


def config_of(cells: Path, out: Path) -> TrainConfig:
    network = {"backbone": "test_resnet", "size": 64, "levels": "p3-p7", "channels": 16, "head_depth": 1}
    return TrainConfig(data=str(cells), out=str(out), epochs=2, batch=4, device="cuda", precision="32-true", **network)


def last_loss(run: Path) -> float:
    loss: float = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["train"]["loss"]
    return loss


@pytest.mark.slow
def test_two_deterministic_runs_have_the_same_weights(cells: Path, tmp_path: Path) -> None:
    runs = [train(replace(config_of(cells, tmp_path / name), deterministic=True)) for name in "ab"]
    first, second = ((run / "model.safetensors").read_bytes() for run in runs)
    assert first == second


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is but one CUDA device")
def test_two_gpus_train_as_one_with_twice_the_batch(cells: Path, tmp_path: Path) -> None:
    two = train(replace(config_of(cells, tmp_path / "two"), batch=2, devices=2))
    one = train(config_of(cells, tmp_path / "one"))
    assert last_loss(two) == pytest.approx(last_loss(one), rel=0.02)
