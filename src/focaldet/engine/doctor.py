"""Installed packages and active kernels: the first thing to check if something is slow or wrong."""

import multiprocessing
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from focaldet import __version__
from focaldet.engine.devices import apple_gpu_fault, choose_device, describe_device, most_workers, native_precision
from focaldet.kernels import available
from focaldet.system.cores import cores


def describe() -> str:
    """Short text for a terminal or a bug report."""
    lines = [
        f"focaldet {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{cores()} of {os.cpu_count()} cores, torch threads {torch.get_num_threads()}, CPU capability "
        f"{torch.backends.cpu.get_cpu_capability()}"
    ]
    for package in (
        "torch",
        "torchvision",
        "timm",
        "lightning",
        "triton",
        "faster-coco-eval",
        "onnxruntime",
        "onnxruntime-openvino",
    ):
        try:
            lines.append(f"  {package:<22}{version(package)}")
        except PackageNotFoundError:
            lines.append(f"  {package:<22}not installed")
    for device, reason in available().items():
        state = "available" if reason is None else f"not available, plain PyTorch is used instead: {reason}"
        lines.append(f"fused losses on {device}: {state}")
    lines += _devices()
    return "\n".join(lines)


def _devices() -> list[str]:
    """The device for networks, its precision, and the number of loader processes."""
    auto = choose_device()
    there = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    mps = torch.backends.mps.is_available()
    there += [torch.device("mps")] * mps
    lines = [
        f"device {describe_device(device)}: {native_precision(device)}" + ", used by --device auto" * (device == auto)
        for device in there
    ]
    if mps and (fault := apple_gpu_fault("gfl")):
        lines.append(f"--device auto does not use mps, because a trial failed there: {fault}")
    lines.append(f"loader workers: at most {most_workers(1)}; started by {multiprocessing.get_start_method()}")
    try:
        import onnxruntime

        lines.append(f"onnxruntime's providers: {', '.join(onnxruntime.get_available_providers())}")
    except ImportError:
        lines.append("onnxruntime's providers: none, it is not installed")
    return lines
