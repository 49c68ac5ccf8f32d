"""Photos as arrays: read from files, scaled for a network, drawn with boxes. Pillow and NumPy alone, no torch."""
