"""python -m benchmarks.convolution: compare the Winograd 3 x 3 convolution with torch's on the maps of a pyramid.

About a minute on two cores. Writes benchmarks/results/convolution.md; run it on an idle machine.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.provenance import provenance
from torch import Tensor
from torch.nn.functional import conv2d

from focaldet.bench.measure import interleaved_ms
from focaldet.files import write_text
from focaldet.kernels.convolution import LIMIT, conv3x3
from focaldet.system.heap import keep_memory

largest = torch.ops.focaldet.largest
RESULT = Path(__file__).parents[1] / "results" / "convolution.md"
LEVELS = 5
CASES = (
    # channels in and out, images, sides of the finest map
    (256, 256, 1, 40),
    (256, 256, 8, 40),
    (256, 256, 2, 100),
    (256, 720, 8, 40),
    (256, 68, 8, 40),
    (128, 128, 8, 40),
    (64, 64, 8, 40),
    (64, 64, 8, 80),
    (64, 36, 8, 80),
    (32, 32, 8, 40),
)


def pyramid(channels: int, images: int, side: int) -> list[Tensor]:
    sides = [-(-side // 2**level) for level in range(LEVELS)]
    return [torch.randn(images, channels, s, s).contiguous(memory_format=torch.channels_last) for s in sides]


def by_torch(maps: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [conv2d(x, weight, bias, padding=1) for x in maps]


def measure(channels: int, out: int, images: int, side: int, seconds: float) -> str:
    torch.manual_seed(0)
    maps, grads = pyramid(channels, images, side), pyramid(out, images, side)
    weight = (torch.randn(out, channels, 3, 3) / (9 * channels) ** 0.5).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(out)
    leaves = [x.requires_grad_() for x in (*maps, weight, bias)]
    exact = by_torch([x.double() for x in maps[-2:]], weight.double(), bias.double())

    def forward(convolve: Callable[..., list[Tensor]]) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                convolve(maps, weight, bias)

        return run

    def step(convolve: Callable[..., list[Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(convolve(maps, weight, bias), leaves, grads)

    ways = {"torch": by_torch, "tiles": conv3x3}
    ms = interleaved_ms({who: forward(way) for who, way in ways.items()}, seconds=seconds)
    step_ms = interleaved_ms({who: step(way) for who, way in ways.items()}, seconds=seconds)
    with torch.no_grad():
        error = {who: max_error(way(maps[-2:], weight, bias), exact) for who, way in ways.items()}
    return (
        f"| {channels} → {out} | {images} × {side}² | {ms['torch']:.2f} | {ms['tiles']:.2f} "
        f"| {ms['torch'] / ms['tiles']:.2f} × | {step_ms['torch']:.2f} | {step_ms['tiles']:.2f} "
        f"| {step_ms['torch'] / step_ms['tiles']:.2f} × | {error['torch']:.0e} | {error['tiles']:.0e} |"
    )


def check_share(channels: int, out: int, images: int, side: int, seconds: float) -> str:
    """The time of searching for numbers that are too large, next to the time of a forward pass, which includes it."""
    maps, weight = pyramid(channels, images, side), torch.randn(out, channels, 3, 3)
    ms = interleaved_ms(
        {
            "check": lambda: all(largest(x.permute(0, 2, 3, 1)) <= LIMIT for x in maps) and largest(weight) <= LIMIT,
            "forward": lambda: conv3x3(maps, weight, None),
        },
        seconds=seconds,
    )
    return f"{channels} → {out}, {images} × {side}²: {ms['check']:.2f} of {ms['forward']:.2f} ms"


def max_error(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.std()) for a, b in zip(found, exact, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="seconds of each measurement")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--check", action="store_true", help="only print what the check for large numbers costs")
    args = parser.parse_args()
    keep_memory()
    if args.check:
        for case in CASES:
            print(check_share(*case, args.seconds))
        return
    text = [
        "# The Winograd 3 x 3 convolution compared with torch's",
        "",
        f"{provenance('python -m benchmarks.convolution')}. The input is a pyramid of five maps, and the table names "
        "the finest; channels last, float32. Times are milliseconds, medians of interleaved runs, with memory kept "
        "as in `focaldet train`. torch uses oneDNN. The error is the largest deviation from float64, relative to the "
        "standard deviation of the outputs. Tiles: the Winograd convolution.",
        "",
        "| channels | images × side² | forward, torch | tiles | | forward and backward, torch | tiles | "
        "| error, torch | tiles |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(measure(*case, args.seconds) for case in CASES),
        "",
    ]
    write_text(args.output, "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
