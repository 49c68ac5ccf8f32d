"""End a run early if AP on the validation photos has stopped improving."""

from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from focaldet.engine.callbacks import RunRecorder


class Patience(Callback):
    """Ends the run after some measurements of AP without improvement. Must come after the recorder.

    The learning rate follows the requested length, so a run that ends early has not lowered it to 0.

    Args:
        evaluations: number of measurements; 0: never.
        recorder: measures AP.
        say: prints a line.
    """

    def __init__(self, evaluations: int, recorder: RunRecorder, say: Callable[[str], None]) -> None:
        self.evaluations, self.recorder, self.say = evaluations, recorder, say
        self.ended = False

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.evaluations or trainer.should_stop:
            return
        # Only the first process measures; all end together.
        over = self.recorder.without_gain >= self.evaluations
        self.ended = trainer.strategy.reduce_boolean_decision(over, all=False)
        trainer.should_stop = self.ended

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.ended:
            times = "once" if self.evaluations == 1 else f"{self.evaluations} times in a row"
            with tqdm.external_write_mode():
                self.say(
                    f"ended early in epoch {trainer.current_epoch}: val AP was measured {times} without exceeding "
                    f"{self.recorder.best:.3f} (--patience {self.evaluations}); the best weights are kept"
                )
