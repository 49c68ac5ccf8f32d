"""python -m benchmarks.detectors.peers: AP of all methods and torchvision's two detectors after equal training time.

All detectors share backbone and pretrained weights, image size, pyramid, depth of the towers, batches, augmentation,
optimiser, schedule, moving average and evaluation. The weights with the best validation AP are measured on the test
split. Seven detectors with three seeds and ten minutes each take four hours on two cores. You can split the work,
because finished runs are kept:

    python -m benchmarks.detectors.peers --data ../shared/data/bccd \\
        --backbone-weights ../shared/weights/tf_efficientnet_lite0.safetensors --only gfl torchvision-fcos

If the machine cannot be idle for four hours, first run `--pace`: it measures the time of the training steps of each
detector in eight minutes. Later runs then get the number of epochs that fits into their minutes at that pace,
regardless of other load.

Further options are passed on to `focaldet train`. Writes the finished runs to benchmarks/results/detectors_ap.md and
.json.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.detectors.__main__ import RESULTS, going_on, one_run
from benchmarks.detectors.torchvision_peer import PEERS, train_peer
from benchmarks.provenance import commit

from focaldet.bench.losses import machine
from focaldet.cli import build_parser
from focaldet.engine.config import TrainConfig
from focaldet.engine.spec import METHODS
from focaldet.files import write_json, write_text

NAMES = (*METHODS, *PEERS)
PEER_OF = {"retinanet": "torchvision-retinanet", "fcos": "torchvision-fcos"}
CONDITIONS = "--backbone tf_efficientnet_lite0 --frozen-stages 1 --backbone-lr 0.3 --flips all --levels p2-p6"
CONDITIONS += " --head-depth 1"

Rows = dict[str, dict[str, Any]]
"""Results by ``<name>-<seed>``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone-weights", required=True)
    parser.add_argument("--minutes", type=float, default=10, help="training time of each run")
    parser.add_argument("--pace", action="store_true", help="measure the step time of each detector, then stop")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="detectors to train now")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"), help="folder for the run folders")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args, options = parser.parse_known_args()
    conditions = ["--data", args.data, "--backbone-weights", args.backbone_weights, *CONDITIONS.split(), *options]
    pace = args.runs / "pace.json"
    if args.pace:
        write_json(pace, {name: measure_pace(name, args.runs, conditions, args.data) for name in args.only})
        return
    paces: dict[str, float] | None = json.loads(pace.read_text()) if pace.exists() else None
    for seed in range(args.seeds):  # seed by seed, so that other load on the machine affects all detectors alike
        for name in args.only:
            budget = [] if "--epochs" in options else budget_of(args.minutes, paces and paces[name])
            train_one(name, args.runs / f"{name}-{seed}", [*conditions, *budget, "--seed", str(seed)], args.data)
    rows = {run.name: row for run in sorted(args.runs.glob("*-[0-9]")) if (row := row_of(run)) is not None}
    shown = "focaldet train " + " ".join(conditions)
    note = "" if "--epochs" in options else budget_note(args.minutes, paces)
    facts = {"conditions": shown, "minutes": args.minutes, "seconds_per_epoch": paces}
    write_json(args.output / "detectors_ap.json", facts | {"machine": machine(), "runs": rows})
    write_text(args.output / "detectors_ap.md", page(shown, note, rows))


def train_one(name: str, run: Path, command: list[str], data: str) -> None:
    """Train and measure one detector if needed; the file ``commit`` in its folder records the code."""
    if name in PEERS:
        peer_run(name, run, command)
    else:
        bins = ["--num-bins", "9"] if name.startswith("gfl") else []
        one_run(run, ["train", *command, "--method", name, *bins], data)
    if not (run / "commit").exists():
        write_text(run / "commit", commit())


def measure_pace(name: str, runs: Path, conditions: list[str], data: str) -> float:
    """Time of the training steps of an epoch in seconds: the median of three epochs after a warm-up epoch."""
    run = runs / f"pace-{name}"
    train_one(name, run, [*conditions, "--epochs", "4", "--val-every", "4"], data)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = lines[1]["step"] - lines[0]["step"]
    return statistics.median(sum(line["seconds"].values()) for line in lines[1:]) * steps


def budget_of(minutes: float, seconds_per_epoch: float | None) -> list[str]:
    if seconds_per_epoch is None:
        return ["--minutes", f"{minutes:g}"]
    return ["--epochs", str(round(60 * minutes / seconds_per_epoch))]


def budget_note(minutes: float, paces: dict[str, float] | None) -> str:
    if paces is None:
        return f"Each was trained for {minutes:g} minutes, including evaluations."
    return (
        f"Each was trained for the epochs that take {minutes:g} minutes of training steps on an idle machine: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in paces.items())
        + " per epoch."
    )


def peer_run(name: str, run: Path, command: list[str]) -> None:
    """Train and measure a peer in a separate process, if needed."""
    if row_of(run) is not None:
        return
    chosen = vars(build_parser()[1]["train"].read([*command, "--out", str(run), *going_on(run)]))
    process = multiprocessing.get_context("spawn").Process(target=train_peer, args=(name, TrainConfig(**chosen)))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name}: the process ended with exit code {process.exitcode}")


def row_of(run: Path) -> dict[str, Any] | None:
    """The results of a run on the test split; ``None`` if it has not been measured."""
    file = run / "evaluation.json"
    if not file.exists() or (report := json.loads(file.read_text()))["split"] != "test":
        return None
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    scores = {name: report["metrics"][name] for name in ("AP", "AP50", "AP75")}
    facts = {"commit": (run / "commit").read_text(), "steps": last["step"], "minutes": last["minutes"]}
    return facts | scores


def seeds_of(name: str, rows: Rows) -> list[dict[str, Any]]:
    return [row for key, row in rows.items() if key.rpartition("-")[0] == name]


def page(conditions: str, note: str, rows: Rows) -> str:
    lines = [
        "# AP of the methods and of torchvision's detectors after equal training time",
        "",
        f"`python -m benchmarks.detectors.peers`, {machine()}. All are trained with `{conditions}`, plus method and "
        "seed (and 9 bins for gfl and gflv2), and measured on the test split. torchvision's detectors have their own "
        "heads, anchors, matching, losses and post-processing; everything else is "
        "the same. " + note,
        "",
        "| | commit | seeds | steps | AP | AP50 | AP75 | AP of each seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    means: dict[str, float] = {}
    for name in NAMES:
        if not (found := seeds_of(name, rows)):
            continue
        means[name] = statistics.mean(row["AP"] for row in found)
        steps = statistics.mean(row["steps"] for row in found)
        scores = " | ".join(f"{statistics.mean(row[key] for row in found):.3f}" for key in ("AP", "AP50", "AP75"))
        commits = ", ".join(sorted({row["commit"] for row in found}))
        each = ", ".join(f"{row['AP']:.3f}" for row in found)
        lines.append(f"| {name} | {commits} | {len(found)} | {steps:,.0f} | {scores} | {each} |")
    lines += ["", *verdict(means)]
    return "\n".join(lines) + "\n"


def verdict(means: dict[str, float]) -> Iterable[str]:
    """The targets: each method at least as good as its peer; and the best of the five."""
    for name, peer in PEER_OF.items():
        if name in means and peer in means:
            yield f"- {name} against {peer}: {means[name] - means[peer]:+.3f} AP (target: at least +0)"
    ours = {name: value for name, value in means.items() if name in METHODS}
    if ours:
        yield f"- best method: {max(ours, key=lambda name: ours[name])}"


if __name__ == "__main__":
    main()
