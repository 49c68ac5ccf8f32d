"""Boxes and the locations they are predicted from: formats, IoU, coding, lattice and anchors."""
