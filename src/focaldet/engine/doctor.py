"""What is installed, and which kernels run: the first thing to look at when something is slow or wrong."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from focaldet import __version__
from focaldet.kernels import available
from focaldet.system.cores import cores


def describe() -> str:
    """A short text for a terminal, and for a bug report."""
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
        state = "run" if reason is None else f"do not run, the plain formulas do: {reason}"
        lines.append(f"fused losses on {device}: {state}")
    return "\n".join(lines)
