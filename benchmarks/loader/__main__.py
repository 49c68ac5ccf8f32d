"""python -m benchmarks.loader DATA [DATA ...] --ultralytics PYTHON: speed of reading, augmenting and collating photos.

Compares with the loaders of torchvision's references and ultralytics, on the same photos, with 2 workers, at 640 px.
PYTHON is the interpreter of an environment with ultralytics. Takes five minutes per folder on two cores; run it on an
idle machine. Writes benchmarks/results/loader.md.
"""

import argparse
import json
import os
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

PHOTOS = 1600
"""Lowest number of training photos: a smaller set is repeated under other names. ultralytics keeps the last 64 decoded
photos of each worker for its mosaic; with 205 photos, that would save it a third of the decoding."""

CORES = 16

H100 = 5 * 1_170_301 / (37.009 * 60) / 8 * (800 / 640) ** 2
"""Photos per second that one H100 trains on at 640 px, from MLPerf Training 3.0: RetinaNet with ResNeXt-50 at 800 px on
8 H100s in 37.009 minutes (https://developer.nvidia.com/deep-learning-performance-training-inference/training), with
1,170,301 photos of OpenImages. This assumes 5 epochs, and time in proportion to the pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="folders of labelled photos")
    parser.add_argument("--ultralytics", metavar="PYTHON", help="interpreter that has ultralytics")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=PHOTOS, help="photos a loader reads in a round")
    given = parser.parse_args()
    found: list[Row] = []
    for data in given.data:
        with TemporaryDirectory() as folder:
            copy = Path(folder, "photos")
            repeated_copy(data, copy)
            found += rows(data.name, copy, given)
    lines = printed(table(found))
    cpu = next(row.value for row in found if row.measure == "focaldet, processor time")
    fed = CORES * 1000 / cpu
    text = (
        f"# Loaders\n\n{provenance(given_command('benchmarks.loader'))}.\n\n"
        f"Read, augment and collate: {SIZE} px, batches of {BATCH}, {WORKERS} workers, JPEG files from disk (in the "
        f"system's cache), repeated to {PHOTOS} or more. Medians of {given.rounds} rounds in which the loaders take "
        f"turns, each in a process of its own; {given.photos} photos a round. Processor time is that of the process "
        "and its workers. focaldet has its default augmentation (`light`), keeps the shape of the photos where all of "
        "a batch have the same, and also makes the targets. torchvision is the `lsj` preset of its references; "
        "ultralytics has its defaults, which include a mosaic of one photo from disk and three that it keeps in "
        "memory, and the same without mosaic.\n\n"
        + "\n".join(lines)
        + "\n\n## What it could feed\n\nArithmetic, not a measurement. In MLPerf Training 3.0, RetinaNet with "
        "ResNeXt-50 at 800 px takes [37.009 minutes on 8 H100s]"
        "(https://developer.nvidia.com/deep-learning-performance-training-inference/training). If that is 5 epochs of "
        "the 1,170,301 photos, and the time of a step grows with its pixels, one H100 trains on "
        f"{H100:.0f} photos a second at 640 px. {CORES} cores like these prepare {CORES} x 1000 / {cpu:.2f} = "
        f"{fed:.0f} a second: {fed / H100:.1f} times as many. With this loader a step waits for photos only if it "
        f"takes less than {BATCH * 1000 / fed:.1f} ms for a batch of {BATCH}.\n"
    )
    RESULT.write_text(text)


def repeated_copy(data: Path, copy: Path) -> None:
    """A folder in YOLO format, with enough training photos."""
    convert_folder(read_folder(data), copy, "yolo", copy=True)
    photos, labels = (sorted((copy / kind / "train").iterdir()) for kind in ("images", "labels"))
    for file in (*photos, *labels):
        for turn in range(1, -(-PHOTOS // len(photos))):
            os.link(file, file.with_stem(f"{file.stem}-{turn}"))


def rows(what: str, data: Path, given: argparse.Namespace) -> Iterator[Row]:
    names = [name for name in LOADERS if given.ultralytics or "ultralytics" not in name]
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            rounds[name].append(measured(name, data, given))
            print(what, name, rounds[name][-1], file=sys.stderr, flush=True)
    rate, cpu, height, width = (
        {name: median(each[column] for each in rounds[name]) for name in names} for column in range(4)
    )
    for name in names:
        work = f"{what}, {width[name]:.0f} x {height[name]:.0f}"
        yield Row(work, name, rate[name], "photos/s", "")
        yield Row(work, f"{name}, processor time", cpu[name], "ms/photo", "")
    peers = [name for name in names if "focaldet" not in name and "memory" not in name]
    best, thrifty = max(peers, key=lambda name: rate[name]), min(peers, key=lambda name: cpu[name])
    yield Row(what, f"photos/s: focaldet / {best}", rate["focaldet"] / rate[best], "x", ">= 1.5")
    yield Row(what, f"processor time: {thrifty} / focaldet", cpu[thrifty] / cpu["focaldet"], "x", ">= 1.5")


def measured(name: str, data: Path, given: argparse.Namespace) -> list[float]:
    """The output of ``work`` about a loader, run in a separate process."""
    python = given.ultralytics if "ultralytics" in name else sys.executable
    command = [python, "-m", "benchmarks.loader.work", name, str(data), "--photos", str(given.photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    numbers: list[float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


if __name__ == "__main__":
    main()
