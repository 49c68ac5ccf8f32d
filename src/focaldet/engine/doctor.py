"""Installed packages and active kernels: the first thing to check if something is slow or wrong."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from focaldet import __version__
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
    return "\n".join(lines)
