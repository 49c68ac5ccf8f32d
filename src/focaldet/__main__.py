"""``focaldet``, and ``python -m focaldet`` if no ``focaldet`` is on the path."""

import logging
import os
import sys
import warnings


def run() -> int:
    """Run the command that this process was started for."""
    if not sys.warnoptions:  # warnings of Pillow, NumPy and torch are about their internals; faults are raised here
        warnings.simplefilter("ignore")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if it has no cache folder
    try:
        os.getcwd()  # MKL would report that it cannot load torch
    except OSError:
        from focaldet.terminal import mistake

        return mistake("the working folder has been removed, or cannot be opened; cd to another one")
    try:
        from focaldet.cli import main  # imported here: Ctrl-C may come while modules load

        return main()
    except KeyboardInterrupt:
        print("focaldet: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
