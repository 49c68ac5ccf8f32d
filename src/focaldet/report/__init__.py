"""Pages about runs: read the files of a run and write one self-contained HTML file. Needs no torch."""

from focaldet.report.errors import write_errors
from focaldet.report.page import write_report
from focaldet.report.suspects import write_suspects

__all__ = ["write_errors", "write_report", "write_suspects"]
