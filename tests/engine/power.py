"""Training that ends as if power were lost."""

from collections.abc import Callable
from typing import Any

import pytest

from focaldet.engine.callbacks import RunRecorder
from focaldet.engine.config import TrainConfig
from focaldet.engine.train import train


def train_until_power_is_lost(
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    *,
    epoch: int = 2,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Train, and break off at the end of an epoch, counted from 0, before anything of it is recorded."""
    whole = RunRecorder.on_train_epoch_end

    def lose_power(self: RunRecorder, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == epoch:
            raise OSError("no power")
        whole(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_train_epoch_end", lose_power)
        with pytest.raises(OSError, match="no power"):
            train(config, say=say)
