"""What is written beside every number in benchmarks/results: command, day, commit and machine."""

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
    """The commit at hand, marked when something differs from it other than the results that are being written."""
    name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":!benchmarks/results"]).returncode
    return name + ("-dirty" if changed else "")


def provenance(command: str) -> str:
    """One line, without a full stop."""
    return f"`{command}`, {date.today()}, commit {commit()}; {architecture()}, Python {python_version()}, {machine()}"


def given_command(module: str) -> str:
    """The command that was typed; of a file or folder, which lies elsewhere on other machines, only its name."""
    words = [Path(word).name if Path(word).exists() else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", module, *words])


def printed(lines: Iterable[str]) -> list[str]:
    """Lines that are shown as they come, for the page at the end."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    return kept
