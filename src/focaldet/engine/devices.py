"""Which device the network runs on: one rule for every command and for ``Detector.load``."""

import platform
import re
from typing import Any

import torch

from focaldet.checks import InputError
from focaldet.system.cores import cores


def choose_device(wanted: str | torch.device = "auto", method: str = "gfl") -> torch.device:
    """The device with this name; ``"auto"``: the first CUDA GPU, else Apple's, else the CPU.

    ``"auto"`` takes Apple's GPU only if a small detector can be trained and used on it with the CPU's losses: see
    ``apple_gpu_fault``. ``"gpu"``, from older configurations, means either kind of GPU, without that trial.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        method: the method to try.

    Raises:
        InputError: torch has no such device on this machine.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    name = str(wanted)
    known = re.fullmatch(r"(auto|cpu|gpu|cuda|mps)(?::([0-9]{1,3}))?", name)
    kind, number = known.groups() if known else ("", None)
    count, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if kind == "cpu" or (name == "auto" and not count and (not mps or apple_gpu_fault(method))):
        return torch.device("cpu")
    if kind in ("auto", "gpu", "cuda") and int(number or 0) < count:
        return torch.device("cuda", int(number or 0))
    if (name == "auto" or kind in ("gpu", "mps")) and mps:
        return torch.device("mps")
    there = ", ".join([*(f"cuda:{index}" for index in range(count)), *["mps"] * mps, "cpu"])
    raise InputError(f"--device {name}: torch has no such device on this machine; it has {there}")


def apple_gpu_fault(method: str) -> str | None:
    """Why ``"auto"`` does not take Apple's GPU for a method, or ``None``."""
    from focaldet.engine.probe import fault_of  # loads the training step, only where there is such a GPU

    return fault_of(torch.device("mps"), method)


def describe_device(device: torch.device) -> str:
    """Name and hardware of a device."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})" if device.type == "mps" else str(device)


def native_precision(device: torch.device) -> str:
    """The fastest floating-point format that the device supports natively, in Lightning's terms.

    bfloat16 on GPUs, and on CPUs with matrix units for it (AMX). float16 on GPUs that only emulate bfloat16, such as T4
    and V100, where it is several times as fast. Otherwise float32.
    """
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "32-true"


def trainer_devices(wanted: str, processes: int, method: str) -> dict[str, Any]:
    """Arguments of Lightning's trainer for a number of devices.

    Raises:
        InputError: the machine has fewer.
    """
    device = choose_device(wanted, method)
    if device.type == "cpu":
        return {"accelerator": "cpu", "devices": processes}
    if ":" in wanted:
        if processes > 1:
            raise InputError(f"--devices {processes}: --device {wanted} is one GPU; leave out its number")
        return {"accelerator": device.type, "devices": [device.index]}
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if processes > count:
        raise InputError(f"--device {wanted} --devices {processes}: this machine has {count} that torch can use")
    return {"accelerator": device.type, "devices": processes}


def most_workers(processes: int) -> int:
    """Number of loader processes per training process; one core is left for the training."""
    return max(1, min(8, cores() // processes - 1))
