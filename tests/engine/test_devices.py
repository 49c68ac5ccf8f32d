"""The choice of a device; a step and a prediction would run on one that this machine lacks."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchgen
import yaml
from test_step_counts import CHOSEN, batch_of, module_of, spec_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from focaldet.checks import InputError
from focaldet.engine import devices, probe
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.devices import choose_device, native_precision, trainer_devices
from focaldet.engine.doctor import describe
from focaldet.engine.hardware import choose_precision
from focaldet.engine.spec import METHODS

every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with this many CUDA GPUs, and with or without Apple's."""

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
        (0, True, "auto", "cpu"),  # tried, and torch has no such GPU here
        (1, True, "auto", "cuda:0"),
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


def test_auto_takes_apple_s_gpu_if_a_trial_succeeds_on_it_and_the_doctor_says_why_not(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0, mps=True)
    assert "--device auto does not use mps, because a trial failed there: " in describe()
    tried = []
    monkeypatch.setattr(devices, "apple_gpu_fault", tried.append)
    assert choose_device("auto", "atss") == torch.device("mps")
    assert tried == ["atss"]
    assert trainer_devices("auto", 1, "atss") == {"accelerator": "mps", "devices": 1}


def test_a_trial_compares_the_losses_with_the_cpu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {"cpu": [2.0, 1.0], "meta": [2.001, 1.0], "xpu": [2.0, float("nan")]}
    monkeypatch.setattr(probe, "_losses", lambda device, method: losses[device.type])
    assert probe.fault_of(torch.device("meta"), "as the CPU") is None
    fault = probe.fault_of(torch.device("xpu"), "as the CPU")
    assert fault == "the loss of step 1 of a trial is nan, and 1 on the CPU"


@pytest.mark.parametrize(
    ("gpus", "mps", "wanted", "there"),
    [
        (0, False, "cuda", "cpu"),
        (2, False, "cuda:2", "cuda:0, cuda:1, cpu"),
        (0, True, "cuda", "mps, cpu"),
        (0, True, "auto:0", "mps, cpu"),  # a number means a CUDA GPU
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
    assert trainer_devices("auto", 2, "gfl") == {"accelerator": "cuda", "devices": 2}
    assert trainer_devices("cuda:1", 1, "gfl") == {"accelerator": "cuda", "devices": [1]}
    assert trainer_devices("cpu", 4, "gfl") == {"accelerator": "cpu", "devices": 4}
    with pytest.raises(InputError, match="--device auto --devices 3: this machine has 2"):
        trainer_devices("auto", 3, "gfl")
    with pytest.raises(InputError, match="--device cuda:1 is one GPU"):
        trainer_devices("cuda:1", 2, "gfl")


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


ALLOWED_WAITS = {
    "boxes/level_index.py level_index: tolist",
    "models/postprocess.py _of_batch: nonzero",
    "models/postprocess.py _best_of_groups: index",
    "models/postprocess.py forward: _to_copy",
    "models/postprocess.py <listcomp>: _to_copy",
}
"""In detection, the host waits for the device twice: for the number of candidates, and for the candidates."""


@pytest.fixture(scope="module")
def on_an_imitated_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every method works on a device without float64 and without mixing devices; see imitated_gpu.py."""
    folder, file = tmp_path_factory.mktemp("imitated"), Path(__file__).with_name("imitated_gpu.py")
    done = subprocess.run([sys.executable, file, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


@pytest.mark.slow
@every_method
def test_a_gpu_without_float64_trains_evaluates_and_detects_as_the_cpu_does(
    name: str, on_an_imitated_gpu: dict[str, Any]
) -> None:
    result = on_an_imitated_gpu[name]
    there, here = result["losses"]
    assert there == pytest.approx(here, rel=1e-5)
    for there, here in zip(*result["boxes"], strict=True):
        assert len(here) > 10
        # Scores that agree to six digits may change places.
        off = np.abs(np.array(there)[:, None] - np.array(here)).max(axis=2)
        assert (off.min(axis=0) <= 0.01).mean() > 0.98
        assert (off.min(axis=1) <= 0.01).mean() > 0.98
    assert result["fault of a trial"] is None
    mixed, index, double, zeros = result["refusals"]
    assert mixed == "add: tensors of two devices, (3,) is on the CPU"
    assert index == "index: tensors of two devices, (1,) is on the CPU"
    assert "no float64" in double
    assert "no float64" in zeros


@pytest.mark.slow
@every_method
def test_the_host_waits_for_the_gpu_where_it_must_and_nowhere_else(
    name: str, on_an_imitated_gpu: dict[str, Any]
) -> None:
    result = on_an_imitated_gpu[name]
    read = "engine/step_terms.py read: tolist"  # the first step's; the second reads nothing
    count = [f"methods/{name}.py choose: nonzero"] if name in CHOSEN else []
    assert result["waits"] == [*count, read, *count]
    assert set(result["waits in detecting"]) <= ALLOWED_WAITS


@pytest.mark.slow
def test_the_losses_are_benchmarked_on_a_device_without_float64(on_an_imitated_gpu: dict[str, Any]) -> None:
    assert len(set(on_an_imitated_gpu["benchmarked"])) >= 8


@pytest.mark.slow
def test_apple_s_gpu_has_every_operator_that_training_and_detecting_need(on_an_imitated_gpu: dict[str, Any]) -> None:
    """By torch's own list: an operator without a kernel there, or one made of others, would end the run."""
    file = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    listed = {entry["func"].split("(")[0]: entry for entry in yaml.safe_load(file.read_text(encoding="utf-8"))}

    def is_there(name: str) -> bool:
        entry = listed[name]
        if "structured_delegate" in entry:
            return is_there(entry["structured_delegate"])
        kernels = ", ".join(entry.get("dispatch", {"CompositeImplicitAutograd": ""}))
        return "MPS" in kernels.split(", ") or "Composite" in kernels

    needed = {name for method in METHODS for name in on_an_imitated_gpu[method]["operators"]}
    assert len(needed) > 100
    assert {name for name in needed if not is_there(name)} == set()
    assert not is_there("ormqr")  # the list says so where there is none


@every_method
def test_a_step_on_a_fake_gpu_mixes_no_devices_and_depends_on_no_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes and devices without data: reading a value, or two devices in one operator, is an error.

    How many positives predictions have chosen is answered with 7. Up to the losses: torch's own backward pass wants a
    driver.
    """
    module, mode = module_of(name), FakeTensorMode()
    module.progress = 0.5
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
        if name in CHOSEN:
            monkeypatch.setattr(Tensor, "nonzero", lambda mask: mask.new_zeros((7, 1), dtype=torch.int64))
        loss = module.training_step(moved, 1)["loss"]
    assert loss.device.type == "cuda"
