"""A module per format: which files are labels, and what their numbers mean. ``focaldet.data.tree`` finds the photos."""
