"""``python -m focaldet``: the command, where no ``focaldet`` is on the path."""

import sys

from focaldet.cli import main

if __name__ == "__main__":
    sys.exit(main())
