"""The machine: cores, memory and processor."""
