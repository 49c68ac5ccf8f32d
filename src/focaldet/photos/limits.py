"""Limits on the pixels of a photo. A separate module, because the command line needs them without NumPy or Pillow."""

MAX_PIXELS = 80_000_000
"""Larger images are rejected by their header if they would be decoded whole (240 MB as RGB)."""

MAX_REGION_PIXELS = 10_000_000_000
"""The same if parts are read (``photos.regions``)."""
