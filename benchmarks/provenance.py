"""Provenance of the numbers in benchmarks/results: command, date, commit and machine."""

import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from platform import machine as architecture
from platform import python_version

from focaldet.bench.losses import machine


def commit() -> str:
    """The current commit, marked as dirty if anything except benchmarks/results differs from it."""
    name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":!benchmarks/results"]).returncode
    return name + ("-dirty" if changed else "")


def provenance(command: str) -> str:
    """Command, date, commit and machine in one line, without a full stop."""
    return f"`{command}`, {date.today()}, commit {commit()}; {architecture()}, Python {python_version()}, {machine()}"


def given_command(module: str) -> str:
    """The command as typed, with paths shortened to names."""
    return shown(["python", "-m", module, *sys.argv[1:]])


def shown(command: Iterable[str]) -> str:
    """A command in one line, with paths shortened to names, since they differ between machines."""
    return shlex.join(Path(word).name if Path(word).exists() else word for word in command)


def printed(lines: Iterable[str]) -> list[str]:
    """Print lines as they arrive and return them all."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    return kept
