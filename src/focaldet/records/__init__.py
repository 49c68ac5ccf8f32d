"""The files of runs and studies: what their fields mean, and how to read them when some are missing or damaged."""
