"""Pages about runs: reads the files that a run leaves, writes one self-contained HTML file. No torch."""

from focaldet.report.errors import write_errors
from focaldet.report.page import write_report

__all__ = ["write_errors", "write_report"]
