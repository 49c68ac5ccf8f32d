"""python -m benchmarks.certainty --data DIR: do calibrated detectors keep their promises on photos they have not seen?

Trains each method with several seeds, which calibrates it on val, and counts on the test split: how many true boxes the
bands contain, how wide they are, how far off scores are, the precision and recall at the thresholds that promise 90 %;
and the same on blurred and on darker copies of the photos, with the result of --check-shift. A method may have options
of train: gfl:levels=p3-p7. Runs in --folder are neither trained nor measured again. Writes
benchmarks/results/certainty.md after each run.
"""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from benchmarks.certainty.measure import measure
from benchmarks.certainty.page import page
from benchmarks.provenance import given_command

from focaldet.engine.config import TrainConfig
from focaldet.engine.train import train
from focaldet.files import read_json, write_json, write_text
from focaldet.records.calibration import FILE

RESULTS = Path(__file__).parents[1] / "results" / "certainty.md"

MEASURED = "certainty.json"
"""File in a run with its measurements."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/certainty"), help="of the runs")
    parser.add_argument("--methods", nargs="+", default=["gfl", "atss", "retinanet"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16, help="of each training (default: 16)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--backbone-weights")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    measured = []
    for method, seed, run in runs(args):
        file = run / MEASURED
        if not file.exists():
            write_json(file, {"method": method, "seed": seed, **measure(run, args.data)})
        measured.append(read_json(file))
        write_text(args.output, page(measured, given_command("benchmarks.certainty")))
    print(args.output.read_text())


def runs(args: argparse.Namespace) -> Iterator[tuple[str, int, Path]]:
    """Method, seed and folder of each run, seed by seed, so that all methods have results early."""
    for seed in range(args.seeds):
        for method in args.methods:
            run = args.folder / f"{method.replace(':', '-').replace('=', '-').replace(',', '-')}-{seed}"
            if not (run / FILE).exists():
                shutil.rmtree(run, ignore_errors=True)  # stopped halfway
                train(config(args, method, seed, run))
            yield method, seed, run


def config(args: argparse.Namespace, method: str, seed: int, run: Path) -> TrainConfig:
    """The configuration of a run."""
    name, _, options = method.partition(":")
    values: dict[str, object] = {"levels": "p2-p6", "head_depth": 1, "num_bins": 9, "flips": "all"}
    if args.backbone_weights:
        values |= {"frozen_stages": 1, "backbone_lr": 0.3}
    kinds = {field.name: type(field.default) for field in fields(TrainConfig)}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        values[key] = kinds[key](value)
    return TrainConfig(
        data=str(args.data),
        out=str(run),
        method=name,
        seed=seed,
        epochs=args.epochs,
        backbone=args.backbone,
        backbone_weights=args.backbone_weights,
        **values,
    )


if __name__ == "__main__":
    main()
