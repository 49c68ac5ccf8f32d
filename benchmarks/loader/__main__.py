"""python -m benchmarks.loader DATA --ultralytics PYTHON: photos per second of reading, augmenting and collating.

Beside the loaders of torchvision's references and of ultralytics, on the same photos, in 2 workers, at 640 px. PYTHON
is the interpreter of an environment that has ultralytics. Four minutes on two cores; run it on an idle machine.
Writes benchmarks/results/loader.md.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.loader.work import BATCH, LOADERS, SIZE, WORKERS
from benchmarks.provenance import given_command, printed, provenance

from focaldet.bench.losses import Row, table
from focaldet.data.convert import convert_folder
from focaldet.data.folder import read_folder

RESULT = Path(__file__).parents[1] / "results" / "loader.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled photos")
    parser.add_argument("--ultralytics", metavar="PYTHON", help="interpreter that has ultralytics")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=2)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        copy = Path(folder, "photos")
        convert_folder(read_folder(given.data), copy, "yolo", copy=True)
        lines = printed(table(rows(copy, given)))
    text = (
        f"# Loaders\n\n{provenance(given_command('benchmarks.loader'))}.\n\n"
        f"Photos per second of read, augment and collate: {SIZE} px, batches of {BATCH}, {WORKERS} workers, JPEG files "
        f"from disk (in the system's cache); medians of {given.rounds} rounds in which the loaders take turns, each in "
        "a process of its own. focaldet also makes the targets. torchvision is the `lsj` preset of its references; "
        "ultralytics has its defaults, and without mosaic, which reads four photos for one.\n\n"
    )
    RESULT.write_text(text + "\n".join(lines) + "\n")


def rows(data: Path, given: argparse.Namespace) -> Iterator[Row]:
    names = [name for name in LOADERS if given.ultralytics or "ultralytics" not in name]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            rates[name].append(measured(name, data, given))
    rate = {name: median(values) for name, values in rates.items()}
    for name in names:
        yield Row(f"{SIZE} px", name, rate[name], "photos/s", "")
    peers = [name for name in names if "focaldet" not in name and "memory" not in name]
    best = max(peers, key=lambda name: rate[name])
    yield Row(f"{SIZE} px", f"focaldet / {best}, the better peer", rate["focaldet"] / rate[best], "x", ">= 1.5")


def measured(name: str, data: Path, given: argparse.Namespace) -> float:
    """Photos per second of a loader, in a process of its own."""
    python = given.ultralytics if "ultralytics" in name else sys.executable
    command = [python, "-m", "benchmarks.loader.work", name, str(data), "--passes", str(given.passes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
