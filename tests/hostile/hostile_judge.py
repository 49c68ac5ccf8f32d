"""Run one command on hostile input: does it end as it should? Each runs in a process that may crash."""

import hashlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from hostile_cases import KINDS
from hostile_surroundings import run_in_surroundings

SECONDS = 30
"""Processor seconds that a command may take."""

WAITING = 90
"""Wall-clock seconds, on a machine with other load."""

MEGABYTES = 1500
"""Memory that a command may take in addition to the process's own."""

MAX_LINE = 300
MAX_SAID = 4000
"""Characters of a line on stderr, and on stdout: 1,000, each of which ASCII may write as four."""


@dataclass(frozen=True)
class Verdict:
    """What one command did.

    Args:
        kind: a key of ``KINDS``.
        number: reproduces the case, together with the seed.
        code: its exit code; ``None`` if there was none.
        fault: the fault found; empty: none.
        seconds, megabytes: time and memory used.
        arguments: arguments of the command.
    """

    kind: str
    number: int
    code: int | None
    fault: str
    seconds: float
    megabytes: float
    arguments: str


class TooLong(BaseException):
    """The time limit has passed; no handler of the package must catch this."""


def judge(kind: str, seed: int, number: int, samples: Path, keep: Path | None = None) -> Verdict:
    """Make a case and run it in this process."""
    rng = random.Random(f"{seed} {kind} {number}")
    work = Path(tempfile.mkdtemp(prefix="hostile-", dir=samples.parent))
    (work / "given").mkdir()
    arguments: list[str] = []
    code, fault, seconds, megabytes = None, "", 0.0, 0.0
    try:
        arguments = [str(argument) for argument in KINDS[kind](samples, work, rng)]
        allowed = _may_change(arguments, work)
        before = _snapshot(work, allowed)
        start, memory = time.process_time(), _reset_peak()
        if kind == "surroundings":
            code, fault, errors, output = run_in_surroundings(arguments, work, rng)
        else:
            code, fault, errors, output = _run(arguments, work)
        seconds, megabytes = time.process_time() - start, _peak() - memory
        fault = fault or _fault_of(code, errors, output, seconds, megabytes)
        after = _snapshot(work, allowed)
        changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
        if not fault and changed:
            fault = f"changed: {changed[:3]}"
        if not fault and (left := list(work.rglob("*.focaldet-part"))):
            fault = f"left behind: {left[0].name}"
        if fault and keep is not None:
            _keep(work, keep / f"{kind.replace(' ', '_')}-{seed}-{number}", arguments, fault)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Verdict(kind, number, code, fault, seconds, megabytes, " ".join(map(ascii, arguments)))


def _run(arguments: list[str], work: Path) -> tuple[int | None, str, str, str]:
    """Exit code, fault, and the output of all code on both streams."""
    from focaldet.cli import main

    def stop(*_: object) -> None:
        raise TooLong

    streams = [tempfile.TemporaryFile() for _ in range(2)]
    kept = [os.dup(number) for number in (1, 2)]
    here = os.getcwd()
    code, fault = None, ""
    sys.stdout.flush()
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream.fileno(), number)
    python_streams = sys.stdout, sys.stderr  # which a test may have exchanged
    sys.stdout, sys.stderr = (io.TextIOWrapper(open(number, "wb", closefd=False)) for number in (1, 2))
    timers = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, WAITING)}
    for timer, (name, seconds) in timers.items():
        signal.signal(name, stop)
        signal.setitimer(timer, seconds)
    try:
        os.chdir(work)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as focaldet.__main__ has it
            code = main(arguments)
    except TooLong:
        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        fault = f"over {SECONDS} s of the processor or {WAITING} s, in {Path(where.filename).name}:{where.lineno}"
    except BaseException as error:
        places = [place for place in traceback.extract_tb(error.__traceback__) if "/focaldet/" in place.filename]
        where = f" at {Path(places[-1].filename).name}:{places[-1].lineno}" if places else ""
        fault = f"{type(error).__name__}{where}: {ascii(str(error))[:200]}"
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        os.chdir(here)
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = python_streams
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
    said = []
    for stream in streams:
        stream.seek(0)
        said.append(stream.read().decode(errors="surrogateescape"))
        stream.close()
    return code, fault, said[1], said[0]


def _fault_of(code: int | None, errors: str, output: str, seconds: float, megabytes: float) -> str:
    lines = errors.splitlines()
    if code not in (0, 2):
        return f"exit code {code}"
    if len(lines) > 1 or (code == 2 and len(lines) != 1):
        return f"{len(lines)} lines of errors: {errors[:300]!a}"
    for line in lines:
        if len(line) > MAX_LINE or not line.isprintable() or not line.startswith("focaldet: "):
            return f"a line of {len(line)} characters: {line[:300]!a}"
    if any(len(line) > MAX_SAID for line in output.splitlines()):
        return f"a line of {max(map(len, output.splitlines()))} characters on stdout"
    if any(not c.isprintable() and c != "\n" for c in output):
        return f"output that is not printable: {output[-200:]!a}"
    if megabytes > MEGABYTES:
        return f"{megabytes:.0f} MB"
    return f"{seconds:.0f} s" if seconds > SECONDS else ""


def _may_change(arguments: list[str], work: Path) -> tuple[str, ...]:
    """Where the command was asked to write."""
    asked = [str(work / "out"), *arguments[1:2] * (arguments[0] == "eval")]
    for number, argument in enumerate(arguments):
        if argument == "--out" and number + 1 < len(arguments):
            asked.append(os.path.join(work, arguments[number + 1]))
        elif argument.startswith("--out="):
            asked.append(os.path.join(work, argument.removeprefix("--out=")))
    return (*asked, *map(os.path.realpath, asked))  # links are written through


def _snapshot(work: Path, without: tuple[str, ...]) -> dict[str, object]:
    """A snapshot of a folder: kinds, sizes, contents."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(work):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            new_run = path == os.path.join(work, "runs")  # where imports go by default
            inside = any(path == place or path.startswith(place.rstrip("/") + "/") for place in without)
            above = any(place.startswith(path + "/") for place in without)  # made for what is written there
            if new_run or inside or above:
                continue
            status = os.lstat(path)
            content = ""
            if os.path.isfile(path) and not os.path.islink(path):
                content = hashlib.sha1(Path(path).read_bytes()).hexdigest()
            found[os.path.relpath(path, work)] = (status.st_mode, content)
    return found


def _keep(work: Path, place: Path, arguments: list[str], fault: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    os.system(f"cp -a '{work}/given' '{place}/'")  # with FIFOs and links, which shutil would open
    (place / "case.txt").write_text(f"{fault}\n{' '.join(map(ascii, arguments))}\n")


def _reset_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def limit_memory(gigabytes: float = 6) -> None:
    """Limit the additional memory of this process: a bomb ends in an error, not in a dead machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
