"""python -m benchmarks.gpu DATA: training steps of every method on this machine's GPU, with the parts of each.

A minute for each method and precision. Writes benchmarks/results/gpu.md with the card, the driver and every figure.
``make gpu`` runs it after the tests that need a GPU.
"""

import argparse
import subprocess
from pathlib import Path

import torch
from benchmarks.provenance import given_command, provenance

from focaldet.bench.step import time_steps
from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig
from focaldet.engine.spec import METHODS

RESULT = Path(__file__).parents[1] / "results" / "gpu.md"


def card() -> str:
    """Name of the GPU, and its driver."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of labelled photos")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=1.0)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise InputError("benchmarks.gpu: torch sees no CUDA device")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    lines = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    for name in METHODS:
        for precision in ("32-true", "16-mixed", *(("bf16-mixed",) if native else ())):
            options = {"size": given.size, "batch": given.batch, "minutes": given.minutes, "device": "cuda"}
            time_steps(TrainConfig(data=given.data, method=name, precision=precision, **options), say=say)
            say("")
    text = "\n".join(lines)
    RESULT.write_text(f"# On a GPU\n\n{provenance(given_command('benchmarks.gpu'))}; {card()}.\n\n```\n{text}\n```\n")


if __name__ == "__main__":
    main()
