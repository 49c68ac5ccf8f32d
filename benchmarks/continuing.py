"""Training runs of a benchmark that may have been stopped."""

from collections.abc import Callable
from pathlib import Path

from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.train import train


def is_begun(config: TrainConfig) -> bool:
    """Whether the run in ``config.out`` has a checkpoint."""
    return Path(str(config.out), "last.ckpt").exists()


def train_or_continue(config: TrainConfig, *, say: Callable[[str], None] = print) -> Path:
    """Train, or continue the run in ``config.out`` by its own ``config.yaml``, which has the levels that were chosen by
    the photos."""
    if is_begun(config):
        config = load_config(Path(str(config.out), "config.yaml"), resume=True, out=config.out)
    return train(config, say=say)
