"""python -m benchmarks.windows.crowd: growth of the suppression time with the number of boxes.

Boxes of 15 to 40 px lie on a photo that grows with their number, so that each overlaps equally many others. Two cases:
a crowd in which most boxes stay, and 50 boxes around each object, as before suppression. Compares with torchvision, and
writes benchmarks/results/crowd.md. Takes a minute.
"""

from pathlib import Path

import numpy as np
import torch
from benchmarks.provenance import given_command, provenance
from torchvision import ops as torchvision_ops

from focaldet.bench.measure import interleaved_ms
from focaldet.files import write_text
from focaldet.models.nms import batched_nms
from focaldet.runtime import nms as in_numpy

RESULTS = Path(__file__).parents[1] / "results" / "crowd.md"
COUNTS = (1000, 5000, 20_000, 80_000)
IOU = 0.6
MOST_FOR_TORCHVISION = 20_000


def crowd(count: int) -> np.ndarray:
    """Boxes spread evenly."""
    chance = np.random.default_rng(count)
    corners = chance.uniform(0, 25 * count**0.5, (count, 2))
    return np.concatenate([corners, corners + chance.uniform(15, 40, (count, 2))], axis=1).astype(np.float32)


def clusters(count: int) -> np.ndarray:
    """Fifty boxes around each object."""
    chance = np.random.default_rng(count)
    centres = chance.uniform(0, 200 * (count / 50) ** 0.5, (count // 50, 2)).repeat(50, axis=0)
    corners = centres + chance.normal(0, 3, centres.shape)
    return np.concatenate([corners, corners + chance.uniform(25, 32, corners.shape)], axis=1).astype(np.float32)


def main() -> None:
    lines = [
        "# Suppression in crowds",
        "",
        f"{provenance(given_command('benchmarks.windows.crowd'))}. Milliseconds, IoU {IOU}, one class, one thread; all "
        "boxes that stay are wanted. The choices are equal.",
        "",
        "| | boxes | that stay | C++ kernel | NumPy | torchvision |",
        "|---|---|---|---|---|---|",
    ]
    torch.set_num_threads(1)
    for name, make in (("crowd", crowd), ("50 around each object", clusters)):
        for count in COUNTS:
            boxes = make(count)
            scores = np.random.default_rng(0).permutation(count).astype(np.float32) / count
            labels = np.zeros(count, np.int64)
            tensors = [torch.from_numpy(values) for values in (boxes, scores, labels)]
            functions = {
                "kernel": lambda t=tensors, n=count: batched_nms(*t, IOU, n),
                "numpy": lambda b=boxes, s=scores, c=labels, n=count: in_numpy.batched_nms(b, s, c, IOU, n),
            }
            if count <= MOST_FOR_TORCHVISION:
                functions["torchvision"] = lambda t=tensors: torchvision_ops.batched_nms(*t, IOU)
            chosen = [np.asarray(run()) for run in functions.values()]
            if not all(np.array_equal(one, chosen[0]) for one in chosen):
                raise SystemExit(f"{name}, {count} boxes: the choices differ")
            times = interleaved_ms(functions, seconds=1.0)
            cells = [f"{times[key]:.1f}" if key in times else "–" for key in ("kernel", "numpy", "torchvision")]
            lines.append(f"| {name} | {count:,} | {len(chosen[0]):,} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write_text(RESULTS, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
