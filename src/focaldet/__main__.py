"""``focaldet``, and ``python -m focaldet`` where no ``focaldet`` is on the path."""

import os
import sys
import warnings


def run() -> int:
    """Run the command that this process was started for."""
    if not sys.warnoptions:  # those of Pillow, NumPy and torch are about their own insides; faults are raised here
        warnings.simplefilter("ignore")
    try:
        os.getcwd()  # MKL would say that it cannot load torch
    except OSError:
        print("focaldet: this folder has been removed, or cannot be looked into; cd to another", file=sys.stderr)
        return 2
    try:
        from focaldet.cli import main  # here: Ctrl-C may come while modules are read

        return main()
    except KeyboardInterrupt:
        print("focaldet: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
