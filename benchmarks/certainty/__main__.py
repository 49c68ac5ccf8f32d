"""python -m benchmarks.certainty --data DIR: do calibrated detectors keep their promises on photos they have not seen?

Trains each method with several seeds, which calibrates it on val, and counts on the test split: how many true boxes the
bands contain, how far off scores are, and the precision at the threshold that promises 90 %. With ``--runs``, measures
runs that are there instead of training. Writes benchmarks/results/certainty.md.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.provenance import given_command, provenance
from scipy.stats import binom

from focaldet.engine.config import TrainConfig
from focaldet.engine.evaluate import evaluate_run
from focaldet.engine.train import train
from focaldet.evaluation.certainty import measured_scores
from focaldet.evaluation.matching import match_run
from focaldet.evaluation.scored import scored_by_class
from focaldet.files import write_text
from focaldet.records.calibration import PERCENTS, Calibration, read_calibration
from focaldet.records.run_files import Run, read_run

RESULTS = Path(__file__).parents[1] / "results" / "certainty.md"

PROMISED = 90
"""Precision and recall, in percent, that are checked."""


@dataclass(frozen=True)
class Measured:
    """One run on the test split.

    Args:
        name: method and seed.
        ap: AP on test.
        error: of the scores before and after calibration.
        sides: coverage and widths, see ``records.calibration.SideReport``.
        val_width: mean width in pixels of the 90 % band on val, for bands by deviation and by size.
        kept: sentences about the promised precision and recall.
    """

    name: str
    ap: float
    error: list[float]
    sides: list[dict]
    val_width: dict[str, float]
    kept: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="+", help="measure these instead of training")
    parser.add_argument("--methods", nargs="+", default=["gfl", "atss"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--backbone-weights")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = [measure(name, run, args.data) for name, run in runs(args, Path(folder))]
    text = page(measured, f"{given_command('benchmarks.certainty')}")
    write_text(args.output, text)
    print(text)


def runs(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each run: those that were given, or one for each method and seed."""
    if args.runs:
        yield from ((run.resolve().name, run) for run in args.runs)
        return
    for method in args.methods:
        for seed in range(args.seeds):
            config = TrainConfig(
                data=str(args.data),
                out=str(folder / f"{method}-{seed}"),
                method=method,
                seed=seed,
                minutes=args.minutes,
                backbone=args.backbone,
                backbone_weights=args.backbone_weights,
                frozen_stages=1 if args.backbone_weights else 0,
                backbone_lr=0.3 if args.backbone_weights else 1.0,
                flips="all",
                levels="p2-p6",
                head_depth=1,
                num_bins=9,
            )
            yield f"{method}, seed {seed}", train(config)


def measure(name: str, run: Path, data: Path) -> Measured:
    """A calibrated run on the test split."""
    calibration = read_calibration(run)
    if calibration is None or calibration.report is None or calibration.bands is None:
        raise SystemExit(f"{run}: has no calibration with bands; focaldet calibrate {run} --data {data}")
    report = evaluate_run(run, data, "test", say=lambda line: None)
    evaluated = read_run(run)
    found = measured_scores(calibration, evaluated)
    assert found is not None
    widths = {
        scale: row["box_width_px"]
        for scale, rows in calibration.report["sides"].items()
        for row in rows
        if row["promised"] == PROMISED / 100
    }
    ap = report["metrics"]["AP"]
    return Measured(name, ap, found["error"], found["sides"], widths, promises(calibration, evaluated))


def promises(calibration: Calibration, run: Run) -> list[str]:
    """What became on test of the precision and recall that the calibration promised."""
    kept = []
    index = PERCENTS.index(PROMISED)
    classes = scored_by_class(match_run(run), len(calibration.class_names))
    for name, one, each in zip(calibration.class_names, classes, calibration.thresholds, strict=True):
        if (threshold := each.precision.thresholds[index]) is not None:
            right = one.right[one.scores >= threshold]
            kept.append(f"{name}: precision {right.mean():.3f} ({int(right.sum())} of {len(right)})")
        if (threshold := each.recall.thresholds[index]) is not None:
            hits = one.object_scores >= threshold
            kept.append(f"{name}: recall {hits.mean():.3f} ({int(hits.sum())} of {len(hits)})")
    return kept


def page(measured: Sequence[Measured], command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# Promises on photos that neither trained nor calibrated",
        "",
        f"{provenance(command)}.",
        "",
        "Coverage of whole boxes on test, with the interval in which 95 % of binomial counts lie; mean width of a",
        "band; mean difference of score and share of right detections.",
        "",
        "| run | AP | promised | covered | interval | width, px | score error, network | calibrated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        for row in one.sides:
            count, promised = row["box_count"], row["promised"]
            low, high = (binom.ppf(q, count, promised) / count for q in (0.025, 0.975))
            covered = row["box_inside"] / count if count else math.nan
            cells = [one.name, f"{one.ap:.3f}", f"{promised:.0%}", f"{covered:.1%} of {count:,}"]
            cells += [f"{low:.1%} to {high:.1%}", f"{row['box_width_px']:.1f}", *(f"{e:.3f}" for e in one.error)]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Mean width of the {PROMISED} % band of a whole box on val, by cross-fitting:", ""]
    lines += ["| run | by standard deviations, px | by the size of the box, px |", "|---|---|---|"]
    for one in measured:
        cells = [f"{one.val_width[s]:.1f}" if s in one.val_width else "" for s in ("deviation", "size")]
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Precision and recall on test at the thresholds that promise {PROMISED} % on val with 90 % confidence:",
        "",
    ]
    lines += [f"- {one.name}: {'; '.join(one.kept) or 'none can be promised'}" for one in measured]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
