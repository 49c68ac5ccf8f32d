"""What is written beside every number in benchmarks/results: command, day, commit and machine."""

import subprocess
from datetime import date
from platform import machine as architecture
from platform import python_version

from focaldet.bench.losses import machine


def commit() -> str:
    """The commit at hand, marked when something differs from it other than the results that are being written."""
    describe, changed = ["git", "rev-parse", "--short", "HEAD"], ["git", "diff", "--quiet", "HEAD", "--", ":!*/results"]
    name = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    return name + "-dirty" * bool(subprocess.run(changed).returncode)


def provenance(command: str) -> str:
    """One line, without a full stop."""
    return f"`{command}`, {date.today()}, commit {commit()}; {architecture()}, Python {python_version()}, {machine()}"
