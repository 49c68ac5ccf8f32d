"""python -m benchmarks.detectors.against COMMIT DATA: the training step of this tree and of an older commit, in turns.

Checks the commit out into a temporary folder and builds its kernels. Then both train each method for two epochs, in
turns, with `focaldet train --profile`; its table is parsed. Both also turn the same maps of 8 photos into detections.
Half an hour on two cores for five methods and three rounds; run it on an idle machine. Writes
benchmarks/results/detectors_against.md.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.provenance import given_command, printed, provenance

from focaldet.bench.losses import Row, table

RESULT = Path(__file__).parents[1] / "results" / "detectors_against.md"
ROOT = Path(__file__).parents[2]
METHODS = ("retinanet", "fcos", "atss", "gfl", "gflv2")
PART = re.compile(r"^  (\w+(?: \w+)*) +([0-9.]+) ms", re.MULTILINE)
NETWORK = ("forward", "backward", "update")
NETWORK_OPTIONS = ("--levels", "p3-p7", "--head-depth", 2, "--num-bins", 17)
"""The same network in both: what is not given may have another default by now."""

POSTPROCESS = """
import statistics, sys, time, torch
from torch.utils._python_dispatch import TorchDispatchMode
from focaldet.engine.spec import ModelSpec
from focaldet.models.postprocess import PostProcess

class Counted(TorchDispatchMode):
    count = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))

torch.manual_seed(0)
net, method = ModelSpec(sys.argv[1], ("a", "b", "c"), "test_resnet", 320, 64, 2).build(prior_prob=0.05)
with torch.no_grad():
    outputs = net.eval()(torch.randint(0, 256, (8, 3, 320, 320), dtype=torch.uint8))
    for logits in outputs.class_logits:
        logits.normal_(-4, 1)
postprocess, sizes = PostProcess(method, net.strides, score_threshold=0.05), [(320, 320)] * 8
times = []
for _ in range(60):
    begin = time.perf_counter()
    postprocess(outputs, sizes)
    times.append(1e3 * (time.perf_counter() - begin))
with Counted() as counted:
    postprocess(outputs, sizes)
print(statistics.median(times[10:]), counted.count)
"""
"""Post-processing of 8 photos: milliseconds and torch operators. Both commits know all names in it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the older one")
    parser.add_argument("data", type=Path, help="folder of labelled photos")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=320)
    given = parser.parse_args()
    with older(given.commit) as tree:
        lines = printed(table(rows(tree, given)))
    text = (
        f"# A training step, before and now\n\n{provenance(given_command('benchmarks.detectors.against'))}. Before: "
        f"commit {given.commit}. {given.size} px, batch 8, p3-p7, towers of 2 layers, random weights; medians of "
        f"{given.rounds} rounds in which the two take turns, of the means that `--profile` prints after {given.epochs} "
        "epochs.\n\n"
    )
    RESULT.write_text(text + "\n".join(lines) + "\n")


@contextmanager
def older(commit: str) -> Iterator[Path]:
    """A folder with the sources of a commit and its kernels."""
    with TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        add = ["git", "worktree", "add", "--detach", tree, commit]
        made = subprocess.run(add, cwd=ROOT, capture_output=True, text=True, check=False)
        if made.returncode:
            raise SystemExit(f"{commit}: cannot be checked out ({made.stderr.strip().splitlines()[-1]})")
        try:
            build = [sys.executable, "setup.py", "build_ext", "--inplace"]
            subprocess.run(build, cwd=tree, check=True, capture_output=True)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def rows(tree: Path, given: argparse.Namespace) -> Iterator[Row]:
    for method in given.methods:
        found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
        for _ in range(given.rounds):
            for when, root in (("before", tree), ("now", ROOT)):
                found[when].append(step_ms(root, method, given))
        of_part = {
            when: {part: median(each[part] for each in runs) for part in runs[0]} for when, runs in found.items()
        }
        whole = {when: median(sum(each.values()) for each in runs) for when, runs in found.items()}
        work = f"{method}, {given.size} px"
        for when, ms in whole.items():
            yield Row(work, f"{when}, steps a second", 1000 / ms, "/s", "")
            parts = of_part[when]
            yield Row(work, f"{when}, a step", ms, "ms", "")
            yield Row(work, f"{when}, outside the network", ms - sum(parts.get(p, 0.0) for p in NETWORK), "ms", "")
        yield Row(work, "now / before, steps a second", whole["before"] / whole["now"], "x", "> 1")
        yield from postprocess_rows(tree, method, given.rounds)


def postprocess_rows(tree: Path, method: str, rounds: int) -> Iterator[Row]:
    found: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
    for _ in range(rounds):
        for when, root in (("before", tree), ("now", ROOT)):
            environment = os.environ | {"PYTHONPATH": str(root / "src")}
            command = [sys.executable, "-c", POSTPROCESS, method]
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{root}, {method}: {done.stderr[-2000:]}")
            ms, operators = map(float, done.stdout.split())
            found[when].append((ms, operators))
    work, typical = f"{method}, post-processing of 8 photos", {}
    for when, runs in found.items():
        typical[when] = median(ms for ms, _ in runs)
        yield Row(work, f"{when}, time", typical[when], "ms", "")
        yield Row(work, f"{when}, operators", runs[0][1], "", "")
    yield Row(work, "before / now, time", typical["before"] / typical["now"], "x", "> 1")


def step_ms(root: Path, method: str, given: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of each part of a step, as printed by ``focaldet train --profile`` of these sources."""
    with TemporaryDirectory() as folder:
        words = ["--data", given.data.resolve(), "--out", Path(folder, "run"), "--method", method, "--profile"]
        words += ["--size", given.size, "--epochs", given.epochs, "--val-every", 1000, *NETWORK_OPTIONS]
        command = [sys.executable, "-m", "focaldet", "train", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(root / "src"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    parts = {part: float(ms) for part, ms in PART.findall(done.stdout)}
    if done.returncode or not parts:
        raise SystemExit(f"{root}, {method}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    print(f"{method} of {root.name}: {parts}", file=sys.stderr, flush=True)
    return parts


if __name__ == "__main__":
    main()
