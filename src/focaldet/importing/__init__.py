"""Import of published detectors as runs of focaldet; one module per source library."""
