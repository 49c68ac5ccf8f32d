"""python -m benchmarks.ten_minutes NAME DATA -- OPTIONS: AP of ``focaldet train --data DATA --minutes 10 OPTIONS``.

Trains with three seeds, one after the other, and measures AP on the test split. Writes benchmarks/results/NAME.md and
NAME.json. Half an hour on an idle machine; seeds with an evaluated run in --folder are not trained again. Give
--folder and --seeds before NAME.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.provenance import commit, shown

from focaldet.bench.losses import machine
from focaldet.data.folder import read_folder
from focaldet.engine.evaluate import evaluate_split
from focaldet.files import write_json, write_text

RESULTS = Path(__file__).parents[1] / "results"
METRICS = ("AP", "AP50", "AP75")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("options", nargs="*", help="of focaldet train, after --")
    parser.add_argument("--folder", type=Path, default=Path("runs/ten_minutes"), help="of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    command = ["train", "--data", str(chosen.data), "--minutes", "10", *chosen.options]
    runs = [
        measured(chosen.folder / f"{chosen.name}-{seed}", chosen.data, command, seed) for seed in range(chosen.seeds)
    ]
    facts = {"command": shown(["focaldet", *command]), "commit": commit(), "machine": machine(), "runs": runs}
    write_json(RESULTS / f"{chosen.name}.json", facts)
    write_text(RESULTS / f"{chosen.name}.md", page(facts))
    print(page(facts))


def measured(run: Path, data: Path, command: list[str], seed: int) -> dict[str, Any]:
    """Train if needed; steps, minutes and AP on the test split."""
    if not (run / "evaluation.json").exists():  # the last file that training writes
        subprocess.run([sys.executable, "-m", "focaldet", *command, "--seed", str(seed), "--out", str(run)], check=True)
    *_, last = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line)
    metrics = evaluate_split(run, read_folder(data), "test")["metrics"]
    return {"steps": last["step"], "minutes": last["minutes"], **{name: metrics[name] for name in METRICS}}


def page(facts: dict[str, Any]) -> str:
    rows = [
        f"| {seed} | {run['steps']} | {run['minutes']:.1f} | {' | '.join(f'{run[name]:.3f}' for name in METRICS)} |"
        for seed, run in enumerate(facts["runs"])
    ]
    means = " | ".join(f"{mean(run[name] for run in facts['runs']):.3f}" for name in METRICS)
    return "\n".join(
        [
            "# BCCD in ten minutes, each seed",
            "",
            f"`{facts['command']}`, test split, commit {facts['commit']}, {facts['machine']}",
            "",
            "| seed | steps | minutes | AP | AP50 | AP75 |",
            "|---|---|---|---|---|---|",
            *rows,
            f"| mean | | | {means} |",
            "",
        ]
    )


if __name__ == "__main__":
    main()
