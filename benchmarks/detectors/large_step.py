"""python -m benchmarks.detectors.large_step: peak memory and time of a training step with the classes of LVIS.

1,203 classes, two images of 1333 x 800, resnet50, pyramid and towers with 256 channels, float32. Each method runs in a
separate process, and its whole memory counts. It takes two steps with AdamW and the moving average of the weights, as
in `focaldet train`, and reports the time of the second. Takes about ten minutes on two cores and writes
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
from focaldet.engine.spec import METHODS, ModelSpec
from focaldet.methods.positives import find_positives
from focaldet.system.heap import keep_memory
from focaldet.system.memory import peak_memory_mb

OBJECTS = 12
"""Objects per image; LVIS has about eleven."""

ASKED_GIB = 16


def measure(method_name: str, size: dict[str, Any], queue: "multiprocessing.Queue[dict[str, float]]") -> None:
    """Take two steps in this process."""
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
        positives = find_positives(truth, assignment, method.locations(lattice))
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
    """The result of ``measure``; ``None`` if the process was killed, for example for lack of memory."""
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
    lines = ["| method | class logits, GiB | peak, GiB | seconds per step |", "|---|---|---|---|"]
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
        f"moving average of the weights. The peak is measured over the whole process. Target: at most {ASKED_GIB} GiB.",
        "",
        *lines,
        "",
    ]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "large_step.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
