"""python -m benchmarks.losses: the table of `focaldet bench losses`, the growth curve, and a file of results.

About three minutes on two cores. Writes benchmarks/results/losses.md and losses_growth.svg; run it on a quiet machine.
"""

import argparse
from pathlib import Path

from benchmarks.provenance import provenance
from matplotlib import pyplot as plt

from focaldet.bench import losses


def plot_growth(points: list[tuple[int, float]], path: Path) -> None:
    """Time against logits, both on a logarithmic scale, beside a straight line of slope 1."""
    sizes, times = zip(*points, strict=True)
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "focaldet"
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    axes.loglog(sizes, times, "o-", label="focal loss, forward + backward, inplace_grad")
    axes.loglog(sizes, [times[-1] * n / sizes[-1] for n in sizes], ":", color="gray", label="linear")
    axes.set(xlabel="logits", ylabel="ms")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--quick", action="store_true", help="without the compiled peer and without memory")
    parser.add_argument("--largest", type=int, default=100_000_000, help="logits of the last point of the growth curve")
    args = parser.parse_args()
    table = []
    for line in losses.table(losses.loss_rows(compiled=not args.quick, memory=not args.quick)):
        table.append(line)
        print(line, flush=True)
    points = losses.growth(tuple(10**k for k in range(4, 9) if 10**k <= args.largest))
    args.output.mkdir(parents=True, exist_ok=True)
    plot_growth(points, args.output / "losses_growth.svg")
    lines = [
        "# The losses beside their peers",
        "",
        f"{provenance('python -m benchmarks.losses')}. Medians of interleaved runs in one process, float32 "
        "unless said.",
        "",
        *table,
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
