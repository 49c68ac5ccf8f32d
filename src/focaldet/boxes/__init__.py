"""Boxes and the places they are predicted from: formats, overlap, coding, the pyramid's lattice."""
