"""python -m benchmarks.layers: compare our layers for training on a CPU with torch's, alone and in whole networks.

Depthwise convolutions, batch norm and group norm with the ReLU after them, each forward and backward, and then the
forward and backward pass of detectors with and without all of them (and the Winograd convolution). Five minutes on two
cores. Writes benchmarks/results/layers.md; run it on an idle machine.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from benchmarks.provenance import given_command, printed, provenance
from torch import Tensor, nn
from torch.nn import functional as F

from focaldet.bench.measure import interleaved_ms
from focaldet.engine.spec import ModelSpec
from focaldet.files import write_text
from focaldet.kernels.depthwise import depthwise_conv
from focaldet.kernels.normalise import RELU, batch_norm, group_norm
from focaldet.models import conv3x3, detector, fused_norm
from focaldet.structures import HeadOutputs
from focaldet.system.heap import keep_memory

RESULT = Path(__file__).parents[1] / "results" / "layers.md"
BATCH = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

DEPTHWISE = (
    # channels, side of the map, side of the filter, stride
    (96, 160, 3, 2),
    (240, 40, 3, 2),
    (144, 80, 5, 2),
    (240, 40, 5, 1),
    (672, 20, 5, 1),
    (1152, 10, 5, 1),
    (96, 80, 7, 1),
)
NORMS = ((32, 160), (24, 160), (56, 40), (152, 20), (368, 10), (144, 80))
"""Channels and side of the map."""
TOWERS = ((64, 40), (64, 20), (256, 40))
BACKBONES = ("regnetx_002", "resnet18", "tf_efficientnet_lite0", "mobilenetv3_large_100", "hgnetv2_b0", "convnext_atto")

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="seconds of each measurement (default: 2)")
    parser.add_argument("--output", type=Path, default=RESULT, help="page to write")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    chosen = parser.parse_args()
    keep_memory()
    write_text(chosen.output, "\n".join(printed(page(chosen.seconds, chosen.backbones))) + "\n")


def page(seconds: float, backbones: list[str]) -> Iterator[str]:
    yield from (
        "# Layers for training on a CPU, compared with torch's",
        "",
        f"{provenance(given_command('benchmarks.layers'))}. {BATCH} images in channels-last order; milliseconds, "
        "medians of interleaved runs, with memory kept as in `focaldet train`. torch uses oneDNN.",
        "",
        "## Derivatives of depthwise convolutions",
        "",
        *header("channels, side, filter, stride"),
    )
    for channels, side, kernel, stride in DEPTHWISE:
        yield row(
            f"{channels}, {side}, {kernel} x {kernel}, {stride}", seconds, depthwise, channels, side, kernel, stride
        )
    yield from ("", "## Batch norm and ReLU, forward and backward", "", *header("channels, side"))
    for channels, side in NORMS:
        yield row(f"{channels}, {side}", seconds, batch_norms, channels, side)
    yield from ("", "## Group norm (32 groups) and ReLU, forward and backward", "", *header("channels, side"))
    for channels, side in TOWERS:
        yield row(f"{channels}, {side}", seconds, group_norms, channels, side)
    yield from (
        "",
        "## Forward and backward pass of GFL, 320 px",
        "",
        "64 channels, towers of 1 layer. torch: without all our layers, including the Winograd convolution.",
        "",
        *header("backbone"),
    )
    for name in backbones:
        cells = [cell(interleaved_ms(networks(name, dtype), seconds=5 * seconds)) for dtype in DTYPES.values()]
        yield f"| {name} | {' | '.join(cells)} |"


def header(what: str) -> tuple[str, str]:
    of_dtypes = " | ".join(f"{name}, torch | ours | torch / ours" for name in DTYPES)
    return f"| {what} | {of_dtypes} |", "|---" * (1 + 3 * len(DTYPES)) + "|"


def row(title: str, seconds: float, steps: Callable[..., dict[str, Step]], *size: int) -> str:
    cells = [cell(interleaved_ms(steps(dtype, *size), seconds=seconds)) for dtype in DTYPES.values()]
    return f"| {title} | {' | '.join(cells)} |"


def cell(ms: dict[str, float]) -> str:
    return f"{ms['torch']:.2f} | {ms['ours']:.2f} | {ms['torch'] / ms['ours']:.1f}"


def a_map(channels: int, side: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(BATCH, channels, side, side, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def depthwise(dtype: torch.dtype, channels: int, side: int, kernel: int, stride: int) -> dict[str, Step]:
    x, weight = a_map(channels, side, dtype), torch.randn(channels, 1, kernel, kernel, dtype=dtype)
    weight, padding = weight.requires_grad_(), kernel // 2
    outputs = {
        "torch": F.conv2d(x, weight, None, stride, padding, groups=channels),
        "ours": depthwise_conv(x, weight, None, stride, padding),
    }
    grad = torch.randn_like(outputs["torch"])
    return {who: lambda y=y: torch.autograd.grad(y, (x, weight), grad, retain_graph=True) for who, y in outputs.items()}


def batch_norms(dtype: torch.dtype, channels: int, side: int) -> dict[str, Step]:
    x, weight, bias = a_map(channels, side, dtype), *affine(channels)
    mean, var = torch.zeros(channels), torch.ones(channels)
    ways = {
        "torch": lambda: F.relu(F.batch_norm(x, mean, var, weight, bias, training=True), inplace=True),
        "ours": lambda: batch_norm(x, weight, bias, 1e-5, RELU)[0],
    }
    return forward_and_backward(ways, [x, weight, bias])


def group_norms(dtype: torch.dtype, channels: int, side: int) -> dict[str, Step]:
    x, weight, bias = a_map(channels, side, dtype), *affine(channels)
    ways = {
        "torch": lambda: F.relu(F.group_norm(x, 32, weight, bias), inplace=True),
        "ours": lambda: group_norm(x, 32, weight, bias, 1e-5, RELU),
    }
    return forward_and_backward(ways, [x, weight, bias])


def affine(channels: int) -> tuple[Tensor, Tensor]:
    return torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)


def forward_and_backward(ways: dict[str, Callable[[], Tensor]], leaves: list[Tensor]) -> dict[str, Step]:
    grad = torch.randn_like(leaves[0])
    return {who: lambda way=way: torch.autograd.grad(way(), leaves, grad) for who, way in ways.items()}


def networks(backbone: str, dtype: torch.dtype) -> dict[str, Step]:
    spec = ModelSpec("gfl", ("a", "b", "c"), backbone, 320, 64, 1)
    nets: dict[str, nn.Module] = {"ours": spec.build(prior_prob=0.05)[0]}
    with patch.object(detector, "with_fast_layers", lambda module: None):
        nets["torch"] = spec.build(prior_prob=0.05)[0]
    images = torch.randint(0, 256, (BATCH, 3, 256, 320), dtype=torch.uint8)
    return {
        who: step(net.train().to(memory_format=torch.channels_last), images, dtype, ours=who == "ours")
        for who, net in nets.items()
    }


def step(net: nn.Module, images: Tensor, dtype: torch.dtype, *, ours: bool) -> Step:
    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs: HeadOutputs = net(images)
        sum(x.float().square().mean() for x in (*outputs.class_logits, *outputs.box_maps)).backward()

    def by_torch() -> None:
        # The head is built of our layers in both networks: here, their conditions switch them off.
        with patch.object(fused_norm, "_pays", lambda *_: False), patch.object(conv3x3, "MIN_TILES", sys.maxsize):
            run()

    return run if ours else by_torch


if __name__ == "__main__":
    main()
