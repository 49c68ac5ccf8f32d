"""Export of a run to one file that runs without training code."""
