"""Which device is taken, and that a step and a prediction would run on one that this machine has not."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_step_counts import batch_of, module_of, samples, spec_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.devices import choose_device, native_precision, trainer_devices
from focaldet.engine.spec import METHODS
from focaldet.engine.train import choose_precision

every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with so many CUDA GPUs, and Apple's or none."""

    def has(gpus: int, *, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("gpus", "mps", "wanted", "expected"),
    [
        (0, False, "auto", "cpu"),
        (2, False, "auto", "cuda:0"),
        (0, True, "auto", "cpu"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
        (0, True, "mps", "mps"),
        (0, True, "gpu", "mps"),
        (1, True, "gpu", "cuda:0"),
    ],
)
def test_the_device_is_the_one_asked_for_and_auto_the_first_gpu(
    machine: Any, gpus: int, mps: bool, wanted: str, expected: str
) -> None:
    machine(gpus, mps=mps)
    assert choose_device(wanted) == torch.device(expected)


@pytest.mark.parametrize(
    ("gpus", "mps", "wanted", "there"),
    [
        (0, False, "cuda", "cpu"),
        (2, False, "cuda:2", "cuda:0, cuda:1, cpu"),
        (0, True, "cuda", "mps, cpu"),
        (1, False, "cuda:-1", "cuda:0, cpu"),
        (1, False, "cuda:x", "cuda:0, cpu"),
        (0, False, "cpu:x", "cpu"),
        (0, False, "", "cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    machine: Any, gpus: int, mps: bool, wanted: str, there: str
) -> None:
    machine(gpus, mps=mps)
    with pytest.raises(
        InputError, match=f"--device {wanted}: torch has no such device on this machine; it has {there}"
    ):
        choose_device(wanted)


def test_the_trainer_gets_the_gpu_of_that_number_or_as_many_as_there_are_processes(machine: Any) -> None:
    machine(2)
    assert trainer_devices("auto", 2) == {"accelerator": "cuda", "devices": 2}
    assert trainer_devices("cuda:1", 1) == {"accelerator": "cuda", "devices": [1]}
    assert trainer_devices("cpu", 4) == {"accelerator": "cpu", "devices": 4}
    with pytest.raises(InputError, match="--device auto --devices 3: this machine has 2"):
        trainer_devices("auto", 3)
    with pytest.raises(InputError, match="--device cuda:1 is one GPU"):
        trainer_devices("cuda:1", 2)


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_that_only_imitates_bfloat16_computes_in_float16(
    machine: Any, monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
) -> None:
    machine(1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert choose_precision(TrainConfig(data="")) == precision
    assert choose_precision(TrainConfig(data="", precision="32-true")) == "32-true"
    assert native_precision(torch.device("mps")) == "32-true"


def test_a_word_that_is_no_device_is_refused() -> None:
    with pytest.raises(InputError, match="device: expected auto, cpu, cuda, cuda:N or mps; got 'tpu'"):
        TrainConfig(data="", device="tpu")


def test_a_detector_is_loaded_onto_a_device_and_moved(trained: Path, machine: Any) -> None:
    machine(0)
    detector = Detector.load(trained, device="cpu")
    assert detector.device == torch.device("cpu")
    assert detector.to("auto") is detector
    with pytest.raises(InputError, match="--device cuda: torch has no such device"):
        Detector.load(trained, device="cuda")


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64, as Apple's GPU does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"float64 in {func}")
        return out


def test_float64_is_refused_as_on_apple_s_gpu() -> None:
    with WithoutFloat64(), pytest.raises(TypeError, match="float64 in aten"):
        torch.ones(2).double()


@every_method
def test_a_step_and_a_prediction_have_no_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plain formulas, which run where there are no kernels."""
    monkeypatch.setattr("focaldet.kernels._PROBLEMS", {"cpu": "none, as on Apple's GPU", "cuda": None})
    module = module_of(name)
    batch = batch_of(module)
    optimizer = torch.optim.AdamW(module.parameter_groups()[next(iter(module.parameter_groups()))], lr=1e-3, fused=True)
    with WithoutFloat64():
        loss = module.training_step(batch, 1)["loss"]
        loss.backward()
        module.configure_gradient_clipping(optimizer)
        optimizer.step()
        module.average.update(module.net)
        detector_outputs = module.net.eval()(samples()[0].image[None])
        postprocess = _postprocess(name, module)
        found, _ = postprocess._of_batch(detector_outputs, [(128, 128)], postprocess.locations(detector_outputs))
    assert bool(loss.isfinite())
    assert len(found.scores) > 10


def _postprocess(name: str, module: Any) -> Any:
    from focaldet.models.postprocess import PostProcess

    return PostProcess(module.method, module.net.strides, score_threshold=0.001)


@every_method
def test_a_step_on_a_fake_gpu_mixes_no_devices_and_depends_on_no_value(name: str) -> None:
    """Shapes and devices without data: a look at a value, or two devices in one operator, is an error.

    Up to the losses: torch's own backward pass wants a driver.
    """
    module, mode = module_of(name), FakeTensorMode()
    made = batch_of(module)

    def fake(value: Any) -> Any:
        if isinstance(value, Tensor):
            return mode.from_tensor(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: fake(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        return value

    with mode, torch.device("cuda"):
        module.net, _ = spec_of(name).build()  # its average, a copy, stays as it is
    batch = made._replace(images=fake(made.images), targets=fake(made.targets))
    with mode:
        moved = module.transfer_batch_to_device(batch, torch.device("cuda"), 0)
        for unmoved in (batch, moved._replace(targets=batch.targets)):  # what is not moved is found
            with pytest.raises(Exception, match="Expected all tensors to be on the same device"):
                module.training_step(unmoved, 1)
        loss = module.training_step(moved, 1)["loss"]
    assert loss.device.type == "cuda"
