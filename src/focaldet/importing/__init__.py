"""Published detectors of other codes as runs of focaldet: one page for each code they come from."""
