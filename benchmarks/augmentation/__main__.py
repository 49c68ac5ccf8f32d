"""Cost and benefit of each augmentation: BCCD and the demo's digits, several seeds and training times.

    python -m benchmarks.augmentation cost --data DIR
    python -m benchmarks.augmentation table --data DIR digits --minutes 10 30 --seeds 3

``cost`` prints the processor time per photo next to the time of a training step. ``table`` trains one run for each data
set, training time, seed and preset, and measures it on the test split. A finished run is a line of ``WORK/runs.jsonl``.
Called again with the same folder, ``table`` continues a stopped run and skips finished ones. Each finished run rewrites
the page.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.continuing import is_begun, train_or_continue
from benchmarks.provenance import given_command, provenance
from scipy.stats import t

from focaldet.data.augmentation import NAMES, Augmentation
from focaldet.data.batching import DetectionDataset, Draw
from focaldet.data.digits import make_digits
from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder
from focaldet.engine.augment import training_transform
from focaldet.engine.config import TrainConfig
from focaldet.engine.evaluate import evaluate_run
from focaldet.engine.train import train
from focaldet.files import write_text
from focaldet.system.cores import cores

RESULTS = Path(__file__).parents[1] / "results" / "augmentation.md"

EPOCHS = 5
"""Number of passes over the photos in ``cost``."""

PRESETS = ("light", "none", "medium", "strong", *(f"light,{name}" for name in NAMES))
"""Default rows of the table. The others are compared with the first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("cost")
    cost.add_argument("--data", type=Path, required=True)
    cost.add_argument("--photos", type=int, default=40)
    cost.add_argument("--size", type=int, default=320)
    table = commands.add_parser("table")
    table.add_argument("--data", nargs="+", required=True, help="folders, or digits: the demo's data")
    table.add_argument("--minutes", type=float, nargs="+", default=[10.0, 30.0])
    table.add_argument("--seeds", type=int, default=3)
    table.add_argument("--presets", nargs="+", default=PRESETS, help="what --augment takes; the first is the reference")
    table.add_argument("--work", type=Path, default=Path("runs/augmentation"))
    table.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.command == "cost":
        for line in costs(args.data, args.photos, args.size):
            print(line, flush=True)
    else:
        run_table(args)


def costs(data: Path, photos: int, size: int) -> Iterator[str]:
    """Rows of the table of costs: milliseconds per photo that a preset or an augmentation adds.

    It is processor time, which does not change on a busy machine.
    """
    torch.set_num_threads(1)
    folder = read_folder(data)
    folder = replace(folder, splits={"train": folder.splits["train"][:photos]})
    records = folder.splits["train"]
    texts = ("none", "light", "medium", "strong", *(f"light,{name}" for name in NAMES))
    sets = {}
    for text in texts:
        config = TrainConfig(data=str(data), size=size, augment=text, flips="all")
        sets[text] = DetectionDataset(records, training_transform(config, folder.num_classes))
    spent = dict.fromkeys(texts, 0.0)
    for epoch in range(EPOCHS):
        for text, dataset in sets.items():
            start = time.process_time()
            for photo in range(len(records)):
                dataset[Draw(epoch, photo, photo // 8)]
            spent[text] += (time.process_time() - start) / len(records) / EPOCHS * 1000
    step = step_ms(folder, size)
    yield f"{len(records)} photos in memory, {size} px; a step takes {step:.1f} ms per photo with {cores()} cores"
    yield ""
    yield "| `--augment` | ms per photo | more than none, or than light | share of a step |"
    yield "|---|---|---|---|"
    for text in texts:
        more = spent[text] - spent["light" if "," in text else "none"]
        yield f"| {text} | {spent[text]:.2f} | {more:+.2f} | {more / step:+.0%} |"


def step_ms(folder: DataFolder, size: int) -> float:
    """Milliseconds per photo of a training step with the default network, on all cores.

    It is processor time with one thread divided by the number of cores, since waiting threads would count too.
    """
    spent = []
    for epochs in (1, 1 + EPOCHS):  # the difference excludes one-time work
        with tempfile.TemporaryDirectory() as work:
            config = TrainConfig(
                data=str(folder.root),
                size=size,
                augment="none",
                epochs=epochs,
                workers=0,
                pretrained=False,
                out=f"{work}/run",
            )
            start = time.process_time()
            train(config, folder=folder, say=lambda line: None)
            spent.append(time.process_time() - start)
    return (spent[1] - spent[0]) / EPOCHS / len(folder.splits["train"]) / cores() * 1000


def run_table(args: argparse.Namespace) -> None:
    """Train missing runs, and write the page after each."""
    presets = [str(Augmentation.parse(preset)) for preset in args.presets]
    done = args.work / "runs.jsonl"
    # Seed by seed and short runs first: the page is complete early, and becomes more certain.
    for seed in range(args.seeds):
        for minutes in args.minutes:
            for data in args.data:
                for preset in presets:
                    key = {"data": Path(data).name, "minutes": minutes, "preset": preset, "seed": seed}
                    if not any(key.items() <= line.items() for line in lines_of(done)):
                        line = key | run_once(data, minutes, preset, seed, args.work)
                        done.parent.mkdir(parents=True, exist_ok=True)
                        with done.open("a") as file:
                            file.write(json.dumps(line) + "\n")
                    text = page(lines_of(done), args, presets)
                    write_text(args.output, text)
    print(text)


def lines_of(file: Path) -> list[dict]:
    """The finished runs. A line truncated by a kill does not count."""
    lines = []
    for line in file.read_text().splitlines() if file.exists() else ():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def run_once(data: str, minutes: float, preset: str, seed: int, work: Path) -> dict:
    """Train and measure one run; a stopped run continues."""
    folder = work / "digits" if data == "digits" else Path(data)
    if data == "digits" and not folder.exists():
        made = work / "digits-unfinished"
        shutil.rmtree(made, ignore_errors=True)
        make_digits(made)
        made.rename(folder)
    out = work / f"{Path(data).name}-{minutes:g}-{preset.replace('=', '')}-{seed}"
    # As in the demo: a mirrored digit is another sign. Cells have no orientation.
    fitting = {"size": 224, "flips": "none"} if data == "digits" else {"flips": "all"}
    config = TrainConfig(
        data=str(folder),
        out=str(out),
        minutes=minutes,
        augment=preset,
        seed=seed,
        pretrained=False,  # the same on every machine
        **fitting,
    )
    continued = is_begun(config)
    print(f"{out.name}{': continued' if continued else ''}", flush=True)
    if not continued:
        shutil.rmtree(out, ignore_errors=True)
    run = train_or_continue(config, say=lambda line: None)
    split = "test" if read_folder(folder).splits.get("test") else "val"
    metrics = evaluate_run(run, folder, split, say=lambda line: None)["metrics"]
    epochs = len((run / "metrics.jsonl").read_text().splitlines())
    (run / "last.ckpt").unlink()
    return {"AP": metrics["AP"], "AP50": metrics["AP50"], "epochs": epochs, "split": split}


def page(lines: list[dict], args: argparse.Namespace, presets: list[str]) -> str:
    """The table: AP by preset, and its difference from the first preset, seed by seed."""
    parts = ["# Which augmentations help", "", f"{provenance(given_command('benchmarks.augmentation'))}."]
    for data in args.data:
        for minutes in args.minutes:
            chosen = [line for line in lines if (line["data"], line["minutes"]) == (Path(data).name, minutes)]
            if not chosen:
                continue
            split = chosen[0]["split"]
            parts += ["", f"## {Path(data).name}, {minutes:g} minutes, {split} split", ""]
            parts += [
                f"| --augment | AP | range | difference from {presets[0]} | epochs | seeds |",
                "|---|---|---|---|---|---|",
            ]
            reference = {line["seed"]: line["AP"] for line in chosen if line["preset"] == presets[0]}
            for preset in presets:
                own = {line["seed"]: line["AP"] for line in chosen if line["preset"] == preset}
                if not own:
                    continue
                values = list(own.values())
                epochs = statistics.mean(line["epochs"] for line in chosen if line["preset"] == preset)
                gains = [own[seed] - reference[seed] for seed in own if seed in reference]
                parts.append(
                    f"| {preset} | {statistics.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} | "
                    f"{'–' if preset == presets[0] else interval(gains)} | {epochs:.0f} | {len(own)} |"
                )
    return "\n".join(parts) + "\n"


def interval(values: list[float]) -> str:
    """Mean, and with several values half the width of its 95 % interval (Student's t)."""
    if not values:
        return "–"
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
