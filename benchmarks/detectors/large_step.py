"""python -m benchmarks.detectors.large_step: a training step with the classes of LVIS, its peak of memory and its time.

1,203 classes, two images of 1,333 x 800, resnet50, pyramid and towers of 256 channels, float32: each method in a
process of its own, whose whole memory counts. Two steps with AdamW and the moving average of the weights, as
`focaldet train` makes them; the time is the second's. Some ten minutes on two cores; writes
benchmarks/results/large_step.md.
"""

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.detectors.work import scene
from benchmarks.provenance import provenance
from torch.optim.swa_utils import AveragedModel

from focaldet.boxes.locations import Lattice
from focaldet.engine.build import METHODS, ModelSpec
from focaldet.methods.positives import find_positives
from focaldet.system.heap import keep_memory
from focaldet.system.memory import peak_memory_mb

OBJECTS = 12
"""Of an image; LVIS has about eleven."""

ASKED_GIB = 16


def measure(method_name: str, size: dict[str, Any], queue: "multiprocessing.Queue[dict[str, float]]") -> None:
    """Two steps, in this process."""
    keep_memory()  # as training does on a CPU
    names = tuple(f"class {i}" for i in range(size["classes"]))
    spec = ModelSpec(method_name, names, size["backbone"], max(size["height"], size["width"]), size["channels"], 4)
    net, method = spec.build()
    net = net.to(memory_format=torch.channels_last).train()
    average = AveragedModel(net, use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    images, truth = scene(size["batch"], size["height"], size["width"], OBJECTS, size["classes"])
    sizes = torch.tensor([[size["height"], size["width"]]] * size["batch"])
    for _ in range(2):
        start = time.perf_counter()
        optimizer.zero_grad()
        outputs = net(images)
        lattice = Lattice(outputs.level_shapes, net.strides)
        assignment = method.assign(truth, lattice, sizes)
        positives = find_positives(truth, assignment, method.sites(lattice))
        loss = torch.stack(list(method.losses(outputs, assignment, positives).values())).sum()
        logits = sum(level.nbytes for level in outputs.class_logits)
        del outputs
        loss.backward()
        optimizer.step()
        average.update_parameters(net)
        seconds = time.perf_counter() - start
    queue.put(
        {
            "logits": logits / 2**30,
            "peak": peak_memory_mb(torch.device("cpu")) / 2**10,
            "seconds": seconds,
            "loss": float(loss.detach()),
        }
    )


def in_a_process(method: str, size: dict[str, Any]) -> dict[str, float] | None:
    """What ``measure`` found; ``None`` when its process was killed, as a system out of memory does."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(method, size, queue))
    process.start()
    process.join()
    return None if process.exitcode else queue.get(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    for name, value in {"classes": 1203, "batch": 2, "height": 800, "width": 1333, "channels": 256}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--backbone", default="resnet50")
    args = parser.parse_args()
    size = {name: getattr(args, name) for name in ("classes", "batch", "height", "width", "channels", "backbone")}
    lines = ["| method | class logits, GiB | peak, GiB | a step, s |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for method in args.methods:
        found = in_a_process(method, size)
        if found is None:
            lines.append(f"| {method} | | its process was killed | |")
        else:
            lines.append(f"| {method} | {found['logits']:.2f} | {found['peak']:.2f} | {found['seconds']:.1f} |")
        print(lines[-1], flush=True)
    text = [
        "# A training step with the classes of LVIS",
        "",
        f"{provenance('python -m benchmarks.detectors.large_step')}.",
        "",
        f"{size['classes']:,} classes, {size['batch']} images of {size['width']} x {size['height']}, {OBJECTS} objects "
        f"each, {size['backbone']}, {size['channels']} channels, towers of 4 convolutions, float32, AdamW and the "
        f"moving average of the weights. The peak is of the whole process; asked: at most {ASKED_GIB} GiB.",
        "",
        *lines,
        "",
    ]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "large_step.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
