"""Ctrl-C and SIGTERM: a run ends after its step, as if its time were over, and keeps what was learned."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from focaldet.engine.budget import TimeBudget

SIGNALS = (signal.SIGINT, signal.SIGTERM)

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM ends, as a shell sees it."""


def begin_worker(index: int) -> None:
    """In a process that loads photos: it ends with the run, whose last step needs it.

    A terminal and a scheduler send their signal to it too. The second SIGTERM is the run's own, to a worker that does
    not end by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.signal(signum, signal.SIG_DFL))


class Terminated(SystemExit):
    """A run was ended by SIGTERM, and has kept what was learned. The process is to end too.

    Attributes:
        run: its folder.
        exit_code: for the process.
    """

    def __init__(self, run: Path) -> None:
        super().__init__(TERMINATED)
        self.run = run
        self.exit_code = TERMINATED


class _AtOnce(BaseException):
    """From the second signal out of the training: Lightning answers a KeyboardInterrupt with lines of its own."""


class Interruption(Callback):
    """While it is entered, the first signal ends the run after the current step, and the second one at once.

    Args:
        run: the run folder.
        clock: is told to end the run.
        say: prints a line.
    """

    def __init__(self, run: Path, clock: TimeBudget, say: Callable[[str], None]) -> None:
        self.run, self.clock, self.say = run, clock, say
        self.signum: int | None = None
        """The signal that came."""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            self.before = {signum: signal.signal(signum, self._stop) for signum in SIGNALS}
        except ValueError:  # not the main thread
            self.before = {}
        return self

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.before:  # Lightning has put its own handler here, which ends the process with 0
            signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise _AtOnce
        self.signum, self.clock.interrupted = signum, True
        again = "Ctrl-C again" if signum == signal.SIGINT else "SIGTERM again"
        self.say(f"\nstopping after this step; what was learned is kept ({again} to stop at once)")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        if self.signum is None or error is None:
            return False
        if isinstance(error, SIGTERMException):  # the signal came before the first step
            return True
        # A worker has died of the signal before it was ready to outlive it, and a step cannot do without it.
        if isinstance(error, _AtOnce) or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error)):
            if self.signum == signal.SIGINT:
                raise KeyboardInterrupt from None
            kept = "keeps its last checkpoint" if (self.run / "last.ckpt").exists() else "has no checkpoint yet"
            self.say(f"stopped at once; {self.run} {kept}")
            raise SystemExit(TERMINATED) from None
        return False
