"""Mistakes of the user that are found while samples are made, perhaps in a loader's worker."""

from focaldet.checks import InputError


class WorkerError(InputError):
    """An ``InputError`` whose message survives the way out of a worker.

    ``DataLoader`` re-creates a worker's error with its traceback as the message; only the last line is kept.
    """

    def __init__(self, message: str) -> None:
        kind = f"{type(self).__module__}.{type(self).__name__}: "
        super().__init__(message.strip().splitlines()[-1].removeprefix(kind))
