"""The files of runs and studies: the meaning of their fields, and how to read them if some are missing or damaged."""
