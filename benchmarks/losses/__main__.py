"""python -m benchmarks.losses: write the table of `focaldet bench losses` and the growth curve to a file.

About ten minutes on two cores. Writes benchmarks/results/losses.md and losses_growth.svg; run it on an idle machine.
Comparisons with mmdetection need an environment that has it (see assignment/peers.py); otherwise they are left out.
With --device cuda it writes losses_cuda.md instead: the Triton kernels on a GPU (docs/adr/0013).
"""

import argparse
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from benchmarks.assignment.peers import has_mmdet, load_mmdet
from benchmarks.losses import cuda
from benchmarks.provenance import printed, provenance
from matplotlib import pyplot as plt

from focaldet import functional, kernels
from focaldet.bench import losses
from focaldet.bench.measure import interleaved_ms

BOUNDS = (
    f"The rows `{losses.COPY_BOUND}` give the limit. A loss reads its logits from memory and writes a gradient of the "
    "same size, as a copy does: where the number is smaller than what is asked of the row above it, nothing can reach "
    "that on this machine. A fresh gradient also costs the time in which the operating system hands out zeroed pages; "
    "`inplace_grad` needs none. The rest is arithmetic: about 50 vector instructions for 16 (AVX-512) or 8 (AVX2) "
    "logits of the focal loss, most of them for exp and log1p.",
)


def mmdet_rows() -> Iterator[losses.Row]:
    """Compare quality focal and distribution focal loss with mmdetection's, called as in its GFL head."""
    load_mmdet()
    from mmdet.models.losses import DistributionFocalLoss, QualityFocalLoss

    values, targets, _ = losses.detector_inputs(*losses.RETINANET)
    assert targets.quality is not None
    logits, weight, num_classes = values.requires_grad_(), torch.ones(len(values)), values.shape[1]
    labels = torch.where(targets.labels < 0, num_classes, targets.labels)
    score = torch.where(targets.labels < 0, 0.0, targets.quality)
    quality: Any = QualityFocalLoss()
    options: Any = {"reduction": "sum", "normalizer": 600}
    ms = interleaved_ms(
        {
            "ours": lambda: losses.step(logits, lambda z: functional.quality_focal_loss(z, targets, **options)),
            "peer": lambda: losses.step(logits, lambda z: quality(z, (labels, score), weight, avg_factor=600.0)),
        },
        seconds=8,
    )
    yield losses.Row(
        "quality focal, 174,592 x 80, 600 positives", "mmdet / ours", ms["peer"] / ms["ours"], "x", ">= 15"
    )
    generator = torch.Generator().manual_seed(1)
    bins = torch.randn(50_000, 17, generator=generator, requires_grad=True)
    positions, weight = 15.9 * torch.rand(50_000, generator=generator), torch.ones(50_000)
    distribution: Any = DistributionFocalLoss()
    ms = interleaved_ms(
        {
            "ours": lambda: losses.step(
                bins,
                lambda z: functional.distribution_focal_loss(
                    z, positions, weight=weight, reduction="sum", normalizer=4
                ),
            ),
            "peer": lambda: losses.step(bins, lambda z: distribution(z, positions, weight=weight, avg_factor=4.0)),
        },
        seconds=4,
    )
    yield losses.Row("distribution focal, 50,000 x 17", "mmdet / ours", ms["peer"] / ms["ours"], "x", ">= 5")


def plot_growth(points: list[tuple[int, float]], path: Path) -> None:
    """Plot time against logits, both on logarithmic scales, with a straight line of slope 1."""
    sizes, times = zip(*points, strict=True)
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "focaldet"
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    axes.loglog(sizes, times, "o-", label="focal loss, forward + backward, inplace_grad")
    axes.loglog(sizes, [times[-1] * n / sizes[-1] for n in sizes], ":", color="gray", label="linear")
    axes.set(xlabel="logits", ylabel="ms")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def write_cuda(output: Path) -> None:
    """Measure on the GPU and write losses_cuda.md."""
    table = printed(losses.table(cuda.rows()))
    lines = [
        "# The losses on a GPU compared with their peers",
        "",
        f"{provenance('python -m benchmarks.losses --device cuda')}; {torch.cuda.get_device_name()}, Triton "
        f"{version('triton')}. Medians by the device's clock, forward and backward.",
        "",
        *table,
        "",
    ]
    output.mkdir(parents=True, exist_ok=True)
    (output / "losses_cuda.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--quick", action="store_true", help="leave out the compiled peer and memory")
    parser.add_argument(
        "--largest", type=int, default=100_000_000, help="number of logits at the last point of the growth curve"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    args = parser.parse_args()
    if args.device == "cuda":
        if problem := kernels.available()["cuda"]:
            parser.error(f"--device cuda: the Triton kernels do not run here: {problem}")
        write_cuda(args.output)
        return
    table = []
    rows = chain(losses.loss_rows(compiled=not args.quick, memory=not args.quick), mmdet_rows() if has_mmdet() else ())
    for line in losses.table(rows):
        table.append(line)
        print(line, flush=True)
    points = losses.growth(tuple(10**k for k in range(4, 9) if 10**k <= args.largest))
    args.output.mkdir(parents=True, exist_ok=True)
    plot_growth(points, args.output / "losses_growth.svg")
    lines = [
        "# The losses compared with their peers",
        "",
        f"{provenance('python -m benchmarks.losses')}. Medians of interleaved runs in one process, float32 "
        "unless stated otherwise.",
        "",
        *table,
        "",
        *BOUNDS,
        "",
        "![time against logits](losses_growth.svg)",
        "",
        "| logits | ms |",
        "|---|---|",
        *(f"| {n:,} | {ms:.3f} |" for n, ms in points),
        "",
    ]
    (args.output / "losses.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
