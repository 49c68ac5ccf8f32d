"""What is written beside every number in benchmarks/results: command, day, commit and machine."""

import subprocess
from datetime import date
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
