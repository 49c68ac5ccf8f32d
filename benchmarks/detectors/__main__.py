"""AP of a detector on a data set under a time budget, over seeds: ``python -m benchmarks.detectors --help``.

Trains on the train split, selects the weights on the val split and reports the test split. Finished runs are kept, so
an interrupted benchmark continues where it stopped.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.provenance import commit

from focaldet.bench.losses import machine
from focaldet.files import write_json, write_text

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--name", required=True, help="of the result files")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"), help="folder for the run folders")
    arguments, options = parser.parse_known_args()
    command = ["train", "--data", arguments.data, "--minutes", str(arguments.minutes), *options]
    rows = [
        one_run(arguments.runs / f"{arguments.name}-{seed}", [*command, "--seed", str(seed)], arguments.data)
        for seed in range(arguments.seeds)
    ]
    write_json(
        RESULTS / f"{arguments.name}.json",
        {"command": "focaldet " + " ".join(command), "commit": commit(), "machine": machine(), "runs": rows},
    )
    write_text(RESULTS / f"{arguments.name}.md", table(" ".join(command), rows))


def one_run(run: Path, command: list[str], data: str) -> dict[str, float | int]:
    """Train if needed, and measure on the test split; return the numbers of one row."""
    if not (run / "evaluation.json").exists() or json.loads((run / "evaluation.json").read_text())["split"] != "test":
        focaldet(*command, "--out", str(run), *going_on(run))
        focaldet("eval", str(run), "--data", data, "--split", "test")
    report = json.loads((run / "evaluation.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    row = {name: report["metrics"][name] for name in ("AP", "AP50", "AP75")}
    return {"steps": lines[-1]["step"], "minutes": lines[-1]["minutes"]} | row


def going_on(run: Path) -> list[str]:
    """Additional options for an interrupted run. A run without a checkpoint is deleted and starts again."""
    if (run / "last.ckpt").exists():
        return ["--resume"]
    shutil.rmtree(run, ignore_errors=True)
    return []


def focaldet(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "focaldet", *command], check=True)


def table(command: str, rows: list[dict[str, float | int]]) -> str:
    lines = [f"`focaldet {command}`, test split, commit {commit()}, {machine()}", ""]
    lines += ["| seed | steps | minutes | AP | AP50 | AP75 |", "|---|---|---|---|---|---|"]
    for seed, row in enumerate(rows):
        scores = " | ".join(f"{row[name]:.3f}" for name in ("AP", "AP50", "AP75"))
        lines.append(f"| {seed} | {row['steps']} | {row['minutes']:.1f} | {scores} |")
    means = " | ".join(f"{statistics.mean(row[name] for row in rows):.3f}" for name in ("AP", "AP50", "AP75"))
    lines.append(f"| mean | | | {means} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
