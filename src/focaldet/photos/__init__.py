"""Photos as arrays: read from files, scaled for a network, drawn with boxes. Needs only Pillow and NumPy, not torch."""
