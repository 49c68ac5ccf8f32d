"""The losses of dense object detection, and the detectors that are trained with them."""

__version__ = "0.1.0"
