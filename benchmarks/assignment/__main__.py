"""python -m benchmarks.assignment: compare the assignments with their peers, and their time by image size.

About ten minutes on two cores. Writes benchmarks/results/assignment.md and assignment_growth.svg; run it on an
idle machine. Comparisons with mmdetection need an environment that has it (see peers.py); otherwise they are left out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.assignment.work import IMAGES, PEER_NAMES, differing_locations, has_peer, ready, warm
from benchmarks.provenance import printed, provenance
from matplotlib import pyplot as plt

from focaldet.bench.losses import Row, table
from focaldet.bench.measure import extra_peak_bytes, interleaved_ms

ASKED = {
    "ATSS": (">= 20", ">= 20"),
    "FCOS": (">= 10", ""),
    "RetinaNet": (">= 1.5", ">= 5"),
    "TOOD": (">= 20", ""),
    "RTMDet": ("", ""),
}
"""Target ratios of time and memory, peer / ours."""

SIDES = (320, 640, 1280, 2560)
GROWTH_OBJECTS = 100


def rows(height: int, width: int, objects: int, seconds: float) -> Iterator[Row]:
    """Compare time, memory and result of every assignment with its peer."""
    size = (height, width, objects)
    for method, (faster, leaner) in ASKED.items():
        work, peer = f"{method}, {IMAGES} x {width} x {height}, {objects} objects each", PEER_NAMES[method]
        who = ("ours", "peer") if has_peer(method) else ("ours",)
        ms = interleaved_ms({name: ready(method, name, *size) for name in who}, seconds=seconds)
        memory = {name: extra_peak_bytes(warm, method, name, *size) for name in who}
        yield Row(work, "ours", ms["ours"], "ms", "")
        if memory["ours"] is not None:
            yield Row(work, "ours, extra peak memory", memory["ours"] / 1e6, "MB", "")
        if "peer" not in ms:
            yield Row(work, f"{peer} is not installed", float("nan"), "", faster)
            continue
        yield Row(work, f"{peer} / ours", ms["peer"] / ms["ours"], "x", faster)
        if memory["ours"] is not None and memory["peer"] is not None:
            ratio = memory["peer"] / max(memory["ours"], 1e5)  # a rise below 0.1 MB is noise
            yield Row(work, f"{peer} / ours, extra peak memory", ratio, "x", leaner)
        yield Row(work, "locations assigned differently from the peer", differing_locations(method, *size), "", "")


def growth(sides: tuple[int, ...], seconds: float) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by method and name for each side of a square image, with a constant number of objects."""
    times: dict[str, dict[str, list[float]]] = {method: {} for method in ASKED}
    for side in sides:
        size = (side, side, GROWTH_OBJECTS)
        for method in ASKED:
            names = {"ours": f"{method}, ours"} | ({"peer": PEER_NAMES[method]} if has_peer(method) else {})
            ms = interleaved_ms({names[who]: ready(method, who, *size) for who in names}, seconds=seconds)
            for name, value in ms.items():
                times[method].setdefault(name, []).append(value)
    return times


def plot_growth(sides: tuple[int, ...], times: dict[str, dict[str, list[float]]], path: Path) -> None:
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "focaldet"
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for color, lines in enumerate(times.values()):
        for style, (name, values) in zip(("o-", "s:"), lines.items(), strict=False):
            axes.loglog(sides, values, style, color=f"C{color}", label=name)
    axes.set(xlabel="side of the image, px", ylabel=f"ms, {IMAGES} images with {GROWTH_OBJECTS} objects each")
    axes.set_xticks(sides, labels=[str(side) for side in sides], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--quick", action="store_true", help="small images and few objects: does everything run?")
    args = parser.parse_args()
    size, sides, seconds = ((800, 1333, 500), SIDES, 10.0) if not args.quick else ((200, 333, 50), SIDES[:2], 0.1)
    lines = printed(table(rows(*size, seconds=seconds)))
    times = growth(sides, seconds / 4)
    columns = {name: values for lines_of_method in times.values() for name, values in lines_of_method.items()}
    args.output.mkdir(parents=True, exist_ok=True)
    plot_growth(sides, times, args.output / "assignment_growth.svg")
    text = [
        "# The assignments compared with their peers",
        "",
        f"{provenance('python -m benchmarks.assignment')}. Medians of interleaved runs in one process; memory is the "
        "increase of the peak, measured in a separate process. FCOS includes labels and box targets, like its peer.",
        "",
        *lines,
        "",
        f"Milliseconds by image size, with {GROWTH_OBJECTS} objects per image:",
        "",
        "![time by side of the image](assignment_growth.svg)",
        "",
        "| side, px | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
        *(
            f"| {side:,} | " + " | ".join(f"{values[i]:,.1f}" for values in columns.values()) + " |"
            for i, side in enumerate(sides)
        ),
        "",
    ]
    (args.output / "assignment.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
