"""A run as one file that runs without training code."""
