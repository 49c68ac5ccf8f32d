"""Try every command on hostile input: ``python tests/hostile/fuzz.py --seed 0 --inputs 5000``.

Each kind of file and argument is damaged at random, given a seed. Each command must end with 0 or 2, with at most one
printable line of at most 300 characters on stderr, in bounded time and memory, and change only what it was asked to.
See docs/reliability.md.
"""

import argparse
import os
import pickle
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch
from hostile_cases import KINDS, make_strange
from hostile_judge import WAITING, Verdict, judge, limit_memory
from hostile_samples import make_samples

Job = tuple[str, int]
"""Kind and number of a case."""


def fuzz(seed: int, jobs: list[Job], samples: Path, keep: Path | None = None) -> list[Verdict]:
    """Run cases; a process runs as many of them as it survives."""
    verdicts: list[Verdict] = []
    while len(verdicts) < len(jobs):
        verdicts += _batch(seed, jobs[len(verdicts) :], samples, keep)
    return verdicts


def _batch(seed: int, jobs: list[Job], samples: Path, keep: Path | None) -> list[Verdict]:
    """The verdicts of a process: all of them, or those up to a case that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        limit_memory()
        code = 1
        try:
            for kind, number in jobs:
                data = pickle.dumps(judge(kind, seed, number, samples, keep))
                os.write(writing, struct.pack("I", len(data)) + data)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    verdicts: list[Verdict] = []
    with os.fdopen(reading, "rb") as stream:
        while len(verdicts) < len(jobs):
            ready = select.select([stream], [], [], 2 * WAITING)[0]
            head = stream.read(4) if ready else b""
            if len(head) < 4:
                kind, number = jobs[len(verdicts)]
                if not ready:
                    os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                fault = f"the process ended with {status}" if ready else f"over {2 * WAITING} s, beyond Python"
                return [*verdicts, Verdict(kind, number, None, fault, 0.0, 0.0, "")]
            verdicts.append(pickle.loads(stream.read(struct.unpack("I", head)[0])))
    os.waitpid(child, 0)
    return verdicts


def shared_out(inputs: int, kinds: list[str]) -> list[Job]:
    """The same number of cases of each kind."""
    return [(kind, number) for number in range(-(-inputs // len(kinds))) for kind in kinds][:inputs]


def table(verdicts: list[Verdict]) -> str:
    """Inputs, refusals, faults and time of each kind, as Markdown."""
    rows = [
        "| kind | inputs | refused | taken | faults | slowest, s | most memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in (*dict.fromkeys(v.kind for v in verdicts), "all"):
        own = [v for v in verdicts if kind in (v.kind, "all")]
        codes = Counter(v.code for v in own)
        rows.append(
            f"| {kind} | {len(own):,} | {codes[2]:,} | {codes[0]:,} | {sum(bool(v.fault) for v in own)} | "
            f"{max(v.seconds for v in own):.1f} | {max(v.megabytes for v in own):.0f} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--only", type=int, help="a single case of one kind, by its number")
    parser.add_argument("--keep", type=Path, help="folder for what is found")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "samples")
        samples.mkdir()
        make_samples(samples)
        make_strange(samples)
        import focaldet.engine.train  # noqa: F401  once, before the processes part

        jobs = shared_out(chosen.inputs, chosen.kinds)
        if chosen.only is not None:
            jobs = [(chosen.kinds[0], chosen.only)]
        verdicts = fuzz(chosen.seed, jobs, samples, chosen.keep)
        shutil.rmtree(samples)
    print(table(verdicts))
    faults = [v for v in verdicts if v.fault]
    for v in faults:
        print(f"{v.kind} {v.number}: {v.fault}\n    {v.arguments[:300]}")
    print(f"seed {chosen.seed}: {len(verdicts):,} inputs, {len(faults)} faults, {time.perf_counter() - start:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
