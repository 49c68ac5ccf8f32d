"""python -m benchmarks.windows.memory --data BCCD --run RUN --out DIR: memory of ``predict`` on 40,000 × 30,000 px.

Makes a tiled TIFF file and an ordinary JPEG file in DIR, strip by strip, by repeating 60 photos of BCCD (needs
``pip install 'focaldet[large]'`` and 2 GB, and 4 GB more in TMPDIR while the JPEG file is processed), and runs
``focaldet predict RUN`` on each. ``memory`` is the largest sum, sampled twenty times a second, of the resident memory
of that process and all its children; shared pages count in each of them (Linux). The files stay: remove DIR.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.provenance import given_command, provenance

from focaldet.data.folder import read_folder
from focaldet.files import write_text

RESULTS = Path(__file__).parents[1] / "results" / "windows_memory.md"

WIDTH, HEIGHT = 40_000, 30_000
PHOTOS = 60
"""Number of photos decoded once and repeated (55 MB)."""

FORMATS: dict[str, dict[str, Any]] = {
    "photo.jpg": {"Q": 85},
    "tiles.tif": {"tile": True, "tile_width": 256, "tile_height": 256, "compression": "jpeg", "Q": 85, "bigtiff": True},
}
"""File -> how libvips writes it: row by row, in the memory of a few rows."""


def make(data: Path, out: Path) -> None:
    """Write missing files: photos of one size in rows, in random order."""
    missing = [name for name in FORMATS if not (out / name).exists()]
    if not missing:
        return
    import pyvips

    records = [record for records in read_folder(data).splits.values() for record in records]
    width, height = records[0].width, records[0].height
    columns, rows = -(-WIDTH // width), -(-HEIGHT // height)
    out.mkdir(parents=True, exist_ok=True)
    photos = [pyvips.Image.new_from_file(str(record.path)).copy_memory() for record in records[:PHOTOS]]
    order = np.random.default_rng(0).integers(0, len(photos), columns * rows).tolist()
    grid = pyvips.Image.arrayjoin([photos[number] for number in order], across=columns)
    photo = grid.crop(0, 0, WIDTH, HEIGHT)
    for name in missing:
        print(f"making {name}", file=sys.stderr, flush=True)
        photo.write_to_file(str(out / name), **FORMATS[name])


def watched(command: list[str]) -> tuple[float, str]:
    """(MiB, output) of a command that must succeed."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None:
            most = max(most, sum(resident_kib(number) for number in tree(process.pid)))
            time.sleep(0.05)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: code {process.returncode}\n{said}")
    return most / 1024, said


def tree(number: int) -> list[int]:
    """A process and all its descendants."""
    found, at = [number], 0
    while at < len(found):
        for thread in Path(f"/proc/{found[at]}/task").glob("*/children"):
            try:
                found += [int(child) for child in thread.read_text().split()]
            except OSError:  # it has ended
                continue
        at += 1
    return found


def resident_kib(number: int) -> int:
    """Resident memory of a process, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def main() -> None:
    """Make the files, process each, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD")
    parser.add_argument("--run", type=Path, required=True, help="run or exported file, trained with --tile")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--files", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--result", type=Path, default=RESULTS, help="page to write")
    parser.add_argument("options", nargs="*", help="options of predict, after --")
    chosen = parser.parse_args()
    make(chosen.data, chosen.out)
    lines = [
        "# Memory of a photo of 1.2 gigapixels",
        "",
        f"{provenance(given_command('benchmarks.windows.memory'))}.",
        "",
        f"`focaldet predict` on {WIDTH:,} × {HEIGHT:,} px. `memory` is the largest sum, twenty times a second, of the "
        "resident memory of the process and of all that it started; pages that several of them share are counted in "
        "each. torch, the run and the picture that is drawn are included.",
        "",
        "| file | MB | boxes | memory, MiB |",
        "|---|---|---|---|",
    ]
    for name in chosen.files:
        found = chosen.out / f"found-{name}"
        command = [sys.executable, "-m", "focaldet", "predict", str(chosen.run), str(chosen.out / name)]
        mib, said = watched([*command, "--out", str(found), *chosen.options])
        print(said, file=sys.stderr)
        boxes = len(json.loads((found / "predictions.json").read_text(encoding="utf-8"))["annotations"])
        size = (chosen.out / name).stat().st_size / 1e6
        lines.append(f"| {name} | {size:,.0f} | {boxes:,} | {mib:,.0f} |")
        print(lines[-1], flush=True)
    write_text(chosen.result, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
