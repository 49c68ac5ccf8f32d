"""Windows from one photo of 500 megapixels: seconds until the first one, milliseconds for each, and memory.

    python -m benchmarks.windows.reading --out DIR

makes the photo in several formats in DIR (needs ``pip install 'focaldet[large]'`` and some 3 GB), and reads 200 windows
of each at random places, in a separate process. ``memory`` is the peak resident memory of that process, or of the one
that decodes JPEG for it, whichever is larger (Linux).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from focaldet.photos.regions import open_regions

WIDTH, HEIGHT = 25_600, 19_680
CELL = (640, 480)
FORMATS: dict[str, dict[str, Any]] = {
    "photo.jpg": {"Q": 85},
    "tiles-jpeg.tif": {"tile": True, "tile_width": 256, "tile_height": 256, "compression": "jpeg", "Q": 85},
    "tiles-deflate.tif": {"tile": True, "tile_width": 256, "tile_height": 256, "compression": "deflate", "level": 1},
    "strips-raw.tif": {"compression": "none"},
    "strips-lzw.tif": {"compression": "lzw"},
    "photo.png": {"compression": 1},
}
"""File -> how libvips writes it."""


def make(out: Path) -> None:
    """Write missing files: one cell, soft spots in noise, repeated."""
    import pyvips

    rng = np.random.default_rng(0)
    y, x = np.mgrid[: CELL[1], : CELL[0]]
    cell = np.full((CELL[1], CELL[0], 3), 190.0)
    for left, top, radius in rng.uniform([0, 0, 12], [*CELL, 50], (40, 3)):
        spot = 1 / (1 + np.exp((np.hypot(x - left, y - top) - radius) / 2))
        cell -= spot[..., None] * rng.uniform(10, 90, 3)
    cell = np.clip(cell + rng.normal(0, 4, cell.shape), 0, 255).astype(np.uint8)
    photo = pyvips.Image.new_from_array(cell).replicate(WIDTH // CELL[0], HEIGHT // CELL[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, options in FORMATS.items():
        if not (out / name).exists():
            print(f"making {name}", file=sys.stderr, flush=True)
            photo.write_to_file(str(out / name), **options)


def measure(path: Path, side: int, count: int) -> dict[str, float]:
    """Read windows of one file, in this process."""
    start = time.perf_counter()
    with open_regions(path) as photo:
        photo.read(0, 0, side, side)
        first = time.perf_counter() - start
        width, height = photo.size
        places = np.random.default_rng(1).integers(0, [width - side, height - side], (count, 2)).tolist()
        times = []
        for left, top in places:
            start = time.perf_counter()
            photo.read(left, top, side, side)
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        photo.reduced(1280)
        whole = time.perf_counter() - start
    # getrusage also counts the memory of the parent process.
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    memory = max(int(own.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
    slow = float(np.quantile(times, 0.95))
    return {"first_s": first, "ms": 1e3 * float(np.median(times)), "slow_ms": 1e3 * slow, "s": whole, "mib": memory}


def main() -> None:
    """Make the files, measure each in a separate process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--side", type=int, default=640, help="of a window, pixels (default: 640)")
    parser.add_argument("--count", type=int, default=200, help="windows of each file (default: 200)")
    parser.add_argument("--file", help="measure this file alone, and print JSON")
    chosen = parser.parse_args()
    if chosen.file:
        print(json.dumps(measure(chosen.out / chosen.file, chosen.side, chosen.count)))
        return
    make(chosen.out)
    columns = ("MB", "first window, s", "a window, ms", "95 of 100, ms", "whole at 1,280 px, s", "memory, MiB")
    print(f"| {WIDTH:,} × {HEIGHT:,} px | " + " | ".join(columns) + " |")
    print("|---|---|---|---|---|---|---|")
    for name in FORMATS:
        given = [*sys.argv[1:], "--file", name]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.windows.reading", *given], stdout=subprocess.PIPE, text=True, check=True
        )
        found = json.loads(done.stdout)
        size = (chosen.out / name).stat().st_size / 1e6
        print(
            f"| {name} | {size:,.0f} | {found['first_s']:.2f} | {found['ms']:.1f} | {found['slow_ms']:.1f} "
            f"| {found['s']:.1f} | {found['mib']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
