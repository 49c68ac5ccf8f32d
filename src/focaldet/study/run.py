"""Run a study: one process per rung and seed or fold, some in parallel; finished results are kept."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from focaldet.checks import InputError, check_range
from focaldet.files import read_json, write_json
from focaldet.folders import alone_in, check_out
from focaldet.records.study import Line, Study
from focaldet.study.folder import append_line, check_lines, checked_line, open_study, read_lines, read_study
from focaldet.study.folds import training_name
from focaldet.study.rung import teacher_rung
from focaldet.study.summary import summarise
from focaldet.study.table import progress_table, result_table, time_left
from focaldet.study.worker import line_file, run_folder
from focaldet.system.cores import cores

Say = Callable[[str], None]

Key = tuple[str, int]
"""Name of a rung, and a seed."""

POLL_S = 0.5
"""Seconds between two checks of the processes."""

MAX_RUNS = 1000
"""Number of seeds of a study, and of rungs in parallel."""

CORES_OF_A_RUNG = 4
"""Number of cores that one rung can use; determines how many rungs run in parallel."""


def run_study(
    given: dict[str, Any],
    *,
    out: Path | None = None,
    rungs: Sequence[str] | None = None,
    seeds: int | None = None,
    folds: int | None = None,
    gammas: Sequence[float] = (),
    betas: Sequence[float] = (),
    bins: Sequence[int] = (),
    parallel: int | None = None,
    say: Say = print,
) -> Path:
    """Train and measure every rung and seed that has no result yet.

    Args:
        given: options of ``focaldet train`` for all rungs.
        out: folder of the study; ``None``: named after the data.
        rungs, gammas, betas, bins: see ``choose_rungs``.
        seeds: number of seeds; ``None``: as in the existing study, or 3.
        folds: number of folds, instead of seeds: each rung is trained once per fold.
        parallel: number of rungs to run in parallel; ``None``: one for every four cores.
        say: prints a line.

    Returns:
        The folder of the study.

    Raises:
        InputError: the study cannot be started or continued, or a rung failed.
    """
    available = cores()
    parallel = max(1, available // CORES_OF_A_RUNG) if parallel is None else parallel
    check_range("--parallel", parallel, 1, MAX_RUNS)
    if seeds is not None:
        check_range("--seeds", seeds, 1, MAX_RUNS)
    out = study_folder(given, out)
    check_out(out, "a study")
    with alone_in(out, "study"):
        extra = {"gammas": gammas, "betas": betas, "bins": bins}
        study = open_study(out, given, rungs=rungs, seeds=seeds, folds=folds, say=say, **extra)
        lines = read_lines(out)
        check_lines(out, study, lines)
        done = {(line["rung"], line["seed"]) for line in lines}
        keys = _keys(study)
        todo = [key for key in keys if key not in done]
        count, seeds_named = len(study["rungs"]), ", ".join(map(str, study["seeds"]))
        where, over = f"the {study['split']} split", f"seeds {seeds_named}"
        if "folds" in study:
            where, over = "each fold", f"{len(study['folds'])} folds with the {over}"
        say(f"{study['description']}; measured on {where}")
        say(
            f"{count} rung{'s' * (count != 1)}, {over}; {parallel} in parallel; "
            f"{len(todo)} of {len(keys)} runs to do; results in {out}"
        )
        threads = {} if parallel == 1 else {"OMP_NUM_THREADS": str(max(1, available // parallel))}
        _do(out, todo, lines, parallel, threads | dict(os.environ), _Display(study, parallel, say))
    say(write_summary(out))
    return out


def study_folder(given: dict[str, Any], out: Path | None = None) -> Path:
    """The requested folder, or one named after the data.

    >>> str(study_folder({"data": "photos/cells"}))
    'studies/cells'
    """
    if out is not None:
        return out
    if "data" not in given:
        raise InputError(
            "study: --data DIR is missing; give a folder of labelled photos, or continue a study with --out STUDY"
        )
    return Path("studies") / Path(given["data"]).resolve().name


def write_summary(out: Path) -> str:
    """Write ``summary.json`` from the existing results and return the table.

    Raises:
        InputError: the folder has no study, or one of its files is damaged.
    """
    study, lines = read_study(out), read_lines(out)
    summary = summarise(study, lines)
    write_json(out / "summary.json", summary)
    return result_table(study, summary)


def _keys(study: Study) -> list[Key]:
    """All rungs and seeds, seed by seed: the whole ladder is complete early, and the spread follows."""
    return [(row["name"], seed) for seed in study["seeds"] for row in study["rungs"]]


def _do(
    out: Path,
    todo: list[Key],
    lines: list[Line],
    parallel: int,
    environment: dict[str, str],
    display: "_Display",
) -> None:
    """Keep ``parallel`` processes running until everything is done. They end with this process, however it ends."""
    running: dict[Key, subprocess.Popen[bytes]] = {}
    failures: list[str] = []
    todo = list(todo)
    try:
        while todo or running:
            while todo and len(running) < parallel:
                key = _next(todo, running, display.study)
                if key is None:
                    break
                todo.remove(key)
                if not line_file(out, *key).exists():  # otherwise only its line must be stored
                    running[key] = _start(out, key, environment)
                    display.started(key)
                else:
                    _finish(out, key, lines, display)
            for key, process in list(running.items()):
                if process.poll() is None:
                    continue
                with running.pop(key):  # closes the pipe
                    if not process.returncode:
                        _finish(out, key, lines, display)
                        continue
                failures.append(_failure(out, display.name(key), key, process.returncode))
                if not lines:  # no rung has ever worked, so the others would fail, too
                    raise InputError(failures[0])
            display.show(lines, {key: _last_words(log_file(out, *key)) for key in running})
            if running:
                time.sleep(POLL_S)
    finally:
        for process in running.values():
            with process:
                process.kill()
    if failures:
        raise InputError(f"{len(failures)} runs failed; the results of the others are kept. {'; '.join(failures)}")


def _next(todo: list[Key], running: Collection[Key], study: Study) -> Key | None:
    """The first that does not wait for its teacher's run; ``None`` if all do."""
    teachers = {row["name"]: teacher_rung(row["changes"]) for row in study["rungs"]}
    waited_for = {*todo, *running}
    return next((key for key in todo if (str(teachers[key[0]]), key[1]) not in waited_for), None)


def _finish(out: Path, key: Key, lines: list[Line], display: "_Display") -> None:
    file = line_file(out, *key)
    line = checked_line(read_json(file), str(file))
    append_line(out, line)
    lines.append(line)
    file.unlink()
    write_summary(out)
    display.finished(line, lines)


def log_file(out: Path, rung: str, seed: int) -> Path:
    """Log file of the process for a rung and seed."""
    run = run_folder(out, rung, seed)
    return run.with_name(f"{run.name}.log")


def _start(out: Path, key: Key, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    rung, seed = key
    file = log_file(out, rung, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "focaldet.study.worker", str(out.resolve()), rung, str(seed)],
            stdin=subprocess.PIPE,  # open as long as this process lives
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # this process handles Ctrl-C; the last epoch of the run is kept
        )


def _last_words(log: Path) -> str:
    """The last line of a log, without reading the whole file."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(log.stat().st_size - 2000, 0))
        words = file.read().decode("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(words) if line.strip()), "starting")
    return "starting"


def _failure(out: Path, name: str, key: Key, code: int) -> str:
    log = log_file(out, *key)
    words = f"ended by signal {-code}" if code < 0 else _last_words(log)
    return f"{name}: {words} (full log: {log})"


class _Display:
    """A table that is redrawn on a terminal; one line per event elsewhere."""

    def __init__(self, study: Study, parallel: int, say: Say) -> None:
        self.study, self.parallel, self.say = study, parallel, say
        self.terminal = sys.stdout.isatty()
        self.drawn: list[str] = []

    def name(self, key: Key) -> str:
        return f"{key[0]}, {training_name(self.study, key[1])}"

    def started(self, key: Key) -> None:
        if not self.terminal:
            self.say(f"{self.name(key)}: starting")

    def finished(self, line: Line, lines: Sequence[Line]) -> None:
        if self.terminal:
            return
        ap = line["metrics"]["AP"]
        result = line["diverged"] or ("no AP" if ap is None else f"AP {ap:.3f}")
        rest = time_left(self.study, lines, self.parallel)
        self.say(
            f"{self.name((line['rung'], line['seed']))}: {result}, {line['cost']['minutes']:.1f} minutes, "
            f"{len(lines)} of {len(_keys(self.study))} done" + (f", {rest}" if rest else "")
        )

    def show(self, lines: Sequence[Line], running: dict[Key, str]) -> None:
        if not self.terminal:
            return
        size = shutil.get_terminal_size()
        table = progress_table(self.study, lines, running, size.columns - 1)
        table = [*table, time_left(self.study, lines, self.parallel)][-(size.lines - 1) :]
        if table != self.drawn:
            up = f"\x1b[{len(self.drawn)}F\x1b[J" if self.drawn else ""
            print(up + "\n".join(table), flush=True)
            self.drawn = table
