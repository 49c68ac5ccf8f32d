"""Pages about runs: read the files of a run and write one self-contained HTML file. Needs no torch."""

from focaldet.report.errors import write_errors
from focaldet.report.page import write_report

__all__ = ["write_errors", "write_report"]
