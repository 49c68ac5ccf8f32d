"""How many pixels a photo may have. A module of its own: the command line needs the numbers without NumPy or Pillow."""

MAX_PIXELS = 80_000_000
"""Larger images are refused by their header where they would be decoded whole (240 MB as RGB)."""

MAX_REGION_PIXELS = 10_000_000_000
"""The same where parts are read (``photos.regions``)."""
