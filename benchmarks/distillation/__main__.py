"""python -m benchmarks.distillation --data DIR --seeds 3 --epochs N: does a student learn more with a teacher?

Trains a large GFL detector once, and with each seed a small one without and one with the large one as its teacher, for
the same number of epochs. AP is measured on the test split. Runs already in --folder are not trained again, and stopped
ones continue. Writes benchmarks/results/distillation.md after each run.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.continuing import train_or_continue
from benchmarks.provenance import given_command, provenance

from focaldet.data.folder import read_folder
from focaldet.engine.config import TrainConfig
from focaldet.engine.evaluate import evaluate_split
from focaldet.evaluation.statistics import welch_interval
from focaldet.files import read_json, write_json, write_text

RESULTS = Path(__file__).parents[1] / "results" / "distillation.md"

MEASURED = "distillation.json"
"""File in a run with its measurements."""

NUMBERS = ("AP", "AP50", "AP75")

TITLES = {"teacher": "teacher", "alone": "student alone", "taught": "student taught"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/distillation"), help="of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--teacher-epochs", type=int, help="default: as many as --epochs")
    parser.add_argument("--teacher-backbone", default="resnet18")
    parser.add_argument("--teacher-backbone-weights", help="safetensors file; default: from scratch")
    parser.add_argument("--teacher-channels", type=int, default=256)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    measured: list[dict[str, Any]] = []
    for role, config in runs(args):
        measured.append({"role": role, "seed": config.seed, **measure(config)})
        write_text(args.output, page(measured, args))
    print(args.output.read_text())


def runs(args: argparse.Namespace) -> Iterator[tuple[str, TrainConfig]]:
    """Role and configuration of each run: the teacher, then the students seed by seed."""
    common = {"data": str(args.data), "size": args.size, "flips": "all", "head_depth": 1, "num_bins": 9}
    teacher = str(args.folder / "teacher")
    weights = args.teacher_backbone_weights
    yield (
        "teacher",
        TrainConfig(
            **common,
            out=teacher,
            epochs=args.teacher_epochs or args.epochs,
            backbone=args.teacher_backbone,
            channels=args.teacher_channels,
            pretrained=False,
            backbone_weights=weights,
            frozen_stages=1 if weights else 0,
            backbone_lr=0.3 if weights else 1.0,
        ),
    )
    student = common | {"epochs": args.epochs, "pretrained": False}
    for seed in range(args.seeds):
        yield "alone", TrainConfig(**student, out=str(args.folder / f"alone-{seed}"), seed=seed)
        yield "taught", TrainConfig(**student, out=str(args.folder / f"taught-{seed}"), seed=seed, teacher=teacher)


def measure(config: TrainConfig) -> dict[str, Any]:
    """Train or continue a run and measure it on test; later calls read its file."""
    run = Path(str(config.out))
    file = run / MEASURED
    if not file.exists():
        train_or_continue(config)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        metrics = evaluate_split(run, read_folder(config.data), "test")["metrics"]
        write_json(file, {"metrics": metrics, "epochs": len(lines), "minutes": minutes(run)})
        (run / "last.ckpt").unlink()
    return dict(read_json(file))


def minutes(run: Path) -> float:
    """Training time of a run."""
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["minutes"])


def page(measured: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """The results as Markdown."""
    lines = [
        "# A teacher for a small detector",
        "",
        f"{provenance(given_command('benchmarks.distillation'))}.",
        "",
        f"Teacher: GFL, {args.teacher_backbone}, {args.teacher_channels} channels. Students: GFL, regnetx_002, 64 "
        f"channels, {args.epochs} epochs each. Test split.",
        "",
        "| | seed | epochs | minutes | AP | AP50 | AP75 |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        numbers = " | ".join(f"{one['metrics'][name]:.3f}" for name in NUMBERS)
        lines.append(f"| {TITLES[one['role']]} | {one['seed']} | {one['epochs']} | {one['minutes']:.1f} | {numbers} |")
    values = {role: [one["metrics"]["AP"] for one in measured if one["role"] == role] for role in ("alone", "taught")}
    if all(len(of_role) > 1 for of_role in values.values()):
        for role, of_role in values.items():
            lines += ["", f"{TITLES[role].capitalize()}: AP {mean(of_role):.3f} ± {stdev(of_role):.3f}."]
        interval = welch_interval(values["taught"], values["alone"])
        assert interval is not None
        lines += [
            "",
            f"Difference: {interval.difference:+.3f} AP (95 % interval {interval.low:+.3f} to {interval.high:+.3f}, "
            f"{len(values['taught'])} and {len(values['alone'])} seeds).",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
