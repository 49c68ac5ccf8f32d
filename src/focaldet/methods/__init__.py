"""One page per paper: only what is different between the detectors."""
