"""python -m benchmarks.presets ap|speed --data DIR: what the presets of ``focaldet train`` cost and find.

``ap`` trains each preset from scratch with the default options, for the same number of epochs and with each seed, and
measures AP on the test split. AP on val, measured halfway and at the end, selects the weights. Runs in --folder are
kept and stopped ones continue. ``speed``, on an idle machine, exports the first run of each preset and times it on a
photo, in turns with YOLO11n's network at 320 px: --yolo FILE, made by ``torch.onnx.export`` from
``YOLO("yolo11n.yaml").model.fuse()`` of ultralytics, with random weights and without non-maximum suppression. Both
write benchmarks/results/presets.md.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from benchmarks.continuing import train_or_continue
from benchmarks.export.work import runs as session_of
from benchmarks.provenance import given_command, provenance
from torch.utils.flop_counter import FlopCounterMode

from focaldet.bench.measure import interleaved_ms
from focaldet.data.folder import read_folder
from focaldet.engine.config import TrainConfig
from focaldet.engine.detector import Detector
from focaldet.engine.evaluate import evaluate_split
from focaldet.engine.presets import PRESETS
from focaldet.exporting.export import make_file
from focaldet.files import read_json, write_json, write_text
from focaldet.photos.images import read_photo

RESULTS = Path(__file__).parents[1] / "results" / "presets.md"
YOLO, YOLO_SIZE = "YOLO11n", 320


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ap", "speed"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/presets"), help="of the runs")
    parser.add_argument("--only", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--yolo", type=Path, help="YOLO11n as an ONNX file, for speed")
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring, for speed")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    file = args.output.with_suffix(".json")
    numbers: dict[str, Any] = read_json(file) if file.exists() else {"ap": {}, "speed": {}, "provenance": {}}
    for number in range(args.seeds if args.what == "ap" else 0):
        for name in args.only:
            numbers["ap"].setdefault(name, {})[str(number)] = test_ap(args, name, number)
            write(args, file, numbers)
    if args.what == "speed":
        numbers["speed"] = speeds(args)
        write(args, file, numbers)
    print(args.output.read_text())


def write(args: argparse.Namespace, file: Path, numbers: dict[str, Any]) -> None:
    """Write the numbers and the page."""
    key = args.what if args.what == "speed" else f"ap of {' '.join(args.only)}"
    numbers["provenance"][key] = provenance(given_command("benchmarks.presets"))
    write_json(file, numbers)
    write_text(args.output, page(numbers))


def test_ap(args: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """Train or continue a run and measure it on test."""
    run = args.folder / f"{name}-{seed}"
    common: dict[str, Any] = {"data": str(args.data), "epochs": args.epochs, "seed": seed, "out": str(run)}
    config = TrainConfig(**PRESETS[name], **common, pretrained=False, val_every=args.epochs // 2, logger="none")
    measured = run / "test.json"
    if not measured.exists():
        train_or_continue(config)
        metrics = evaluate_split(run, read_folder(config.data), "test")["metrics"]
        write_json(measured, {"AP": metrics["AP"], "AP50": metrics["AP50"]})
    return dict(read_json(measured))


def speeds(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters, multiply-accumulate operations and milliseconds of each preset, and of YOLO11n."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    yolo = ort.InferenceSession(args.yolo, options, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).random((1, 3, YOLO_SIZE, YOLO_SIZE), dtype=np.float32)
    name_of_input = yolo.get_inputs()[0].name
    functions: dict[str, Any] = {YOLO: lambda: yolo.run(None, {name_of_input: noise})}
    rows: dict[str, Any] = {}
    photo = read_photo(read_folder(args.data).splits["test"][0].path)
    photo = photo[: min(photo.shape[:2]), : min(photo.shape[:2])]  # square, as YOLO11n's input
    for name in PRESETS:
        detector = Detector.load(args.folder / f"{name}-0", device="cpu")
        image = detector.spec.resize(photo, detector.spec.size)[None]
        data = make_file(detector, "onnx", "detections")[0]
        run = session_of(data)
        functions[name] = lambda run=run, image=image: run(image)
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            detector.net(torch.tensor(image).permute(0, 3, 1, 2))
        rows[name] = {
            "parameters": sum(parameter.numel() for parameter in detector.net.parameters()),
            "macs": flops.get_total_flops() // 2,
            "bytes": len(data),
            "input": "{1} x {0}".format(*image.shape[1:3]),
            "levels": detector.spec.network.levels,
        }
    for name, ms in interleaved_ms(functions, seconds=args.seconds, rest=0.05).items():
        rows.setdefault(name, {})["ms"] = ms
    return rows


def page(numbers: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Presets", ""]
    lines += [line for text in numbers["provenance"].values() for line in (f"{text}.", "")]
    lines += ["| preset | backbone, channels, size | parameters | MACs | file | ms | / YOLO11n | seeds | AP | AP50 |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    yolo = numbers["speed"].get(YOLO, {}).get("ms")
    for name, options in PRESETS.items():
        row, runs = numbers["speed"].get(name), list(numbers["ap"].get(name, {}).values())
        chosen = ", ".join(str(options[name]) for name in ("backbone", "channels", "size"))
        cells = [name, chosen]
        if row is None:
            cells += [""] * 5
        else:
            cells += [f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e9:.2f} G", f"{row['bytes'] / 1e6:.1f} MB"]
            cells += [f"{row['ms']:.1f}", f"{row['ms'] / yolo:.2f}"]
        cells += [str(len(runs)), spread([run["AP"] for run in runs]), spread([run["AP50"] for run in runs])]
        lines.append(f"| {' | '.join(cells)} |")
    if yolo is not None:
        sizes = ", ".join(
            f"{name} {numbers['speed'][name]['input']} {numbers['speed'][name]['levels']}" for name in PRESETS
        )
        lines += ["", f"{YOLO}: {yolo:.1f} ms for {YOLO_SIZE} x {YOLO_SIZE} pixels. Inputs of the presets: {sizes}."]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return ""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
