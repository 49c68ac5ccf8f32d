"""The machine: its cores, its memory, its name."""
