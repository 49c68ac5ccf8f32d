"""Ctrl-C and SIGTERM: the run ends after its current step and saves what it has learned."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from focaldet.data.sending import send_small_tensors_by_value
from focaldet.engine.budget import TimeBudget
from focaldet.system.heap import keep_memory

SIGNALS = (signal.SIGINT, signal.SIGTERM)

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process ended by SIGTERM, as a shell reports it."""


def begin_worker(index: int) -> None:
    """Set up a data-loading process. It survives a signal: the last step of the run still needs it.

    Terminals and schedulers send their signals to this process too. A second SIGTERM comes from the run itself, to a
    worker that does not end on its own.
    """
    keep_memory()  # a photo needs several buffers of a megabyte, which the system would otherwise map again each time
    send_small_tensors_by_value()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.signal(signum, signal.SIG_DFL))


class Terminated(SystemExit):
    """SIGTERM ended a run, which has saved its progress. The process should end too.

    Attributes:
        run: the run folder.
        exit_code: exit code for the process.
    """

    def __init__(self, run: Path) -> None:
        super().__init__(TERMINATED)
        self.run = run
        self.exit_code = TERMINATED


class _AtOnce(BaseException):
    """Leaves training at the second signal. Lightning would print its own lines on a KeyboardInterrupt."""


class Interruption(Callback):
    """Context in which the first signal ends the run after the current step, and the second one immediately.

    Args:
        run: the run folder.
        clock: ends the run.
        say: prints a line.
    """

    def __init__(self, run: Path, clock: TimeBudget, say: Callable[[str], None]) -> None:
        self.run, self.clock, self.say = run, clock, say
        self.signum: int | None = None
        """The signal that was received."""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            self.before = {signum: signal.signal(signum, self._stop) for signum in SIGNALS}
        except ValueError:  # not the main thread
            self.before = {}
        return self

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.before:  # Lightning has installed its own handler, which ends the process with exit code 0
            signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise _AtOnce
        self.signum, self.clock.interrupted = signum, True
        again = "Ctrl-C again" if signum == signal.SIGINT else "SIGTERM again"
        self.say(f"\nstopping after this step; what was learned is saved ({again} to stop immediately)")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        if self.signum is None or error is None:
            return False
        if isinstance(error, SIGTERMException):  # the signal arrived before the first step
            return True
        # The signal killed a worker before begin_worker ran, and the step cannot finish without the worker.
        if isinstance(error, _AtOnce) or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error)):
            if self.signum == signal.SIGINT:
                raise KeyboardInterrupt from None
            kept = "has its last checkpoint" if (self.run / "last.ckpt").exists() else "has no checkpoint yet"
            self.say(f"stopped immediately; {self.run} {kept}")
            raise SystemExit(TERMINATED) from None
        return False
