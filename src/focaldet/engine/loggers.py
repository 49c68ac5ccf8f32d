"""Loggers of a run's losses, learning rate and AP: Lightning's loggers by name."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from focaldet.checks import InputError, near_name, split_names
from focaldet.engine.config import TrainConfig


def _tensorboard(run: Path) -> Logger:
    return TensorBoardLogger(save_dir=str(run), name="tensorboard", version="")


def _csv(run: Path) -> Logger:
    return CSVLogger(save_dir=str(run), name="csv")  # a resumed run starts a new version: the old one would be emptied


def _wandb(run: Path) -> Logger:
    # WANDB_MODE or `wandb login` decide whether it is online.
    (run / "wandb").mkdir(parents=True, exist_ok=True)
    return WandbLogger(name=run.name, save_dir=str(run), project="focaldet")


def _mlflow(run: Path) -> Logger:
    # Logs to the server in MLFLOW_TRACKING_URI, else to a file in the run folder.
    import os

    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run / 'mlflow.db').resolve()}"
    artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (run / "mlflow").resolve().as_uri()
    return MLFlowLogger("focaldet", run_name=run.name, tracking_uri=place, artifact_location=artifacts)


LOGGERS: dict[str, tuple[Callable[[Path], Logger], str]] = {
    "tensorboard": (_tensorboard, "tensorboard"),
    "csv": (_csv, "lightning"),
    "wandb": (_wandb, "wandb"),
    "mlflow": (_mlflow, "mlflow"),
}
"""Name of a logger -> function that creates it, and the package that it needs."""


def check_loggers(names: str) -> tuple[str, ...]:
    """The logger names in an option; empty for ``"none"``.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    chosen = split_names(names)
    if chosen == ("none",):
        return ()
    for name in chosen:
        if name not in LOGGERS:
            raise InputError(f"--logger: unknown name {name!r}; {near_name(name, [*LOGGERS, 'none'])}")
        package = LOGGERS[name][1]
        if find_spec(package) is None:
            raise InputError(f"--logger {name}: {package} is not installed; pip install {package}")
    return chosen


def make_loggers(config: TrainConfig, run: Path) -> list[Logger]:
    """Create the loggers of a run; all but TensorBoard's also log the settings.

    Raises:
        InputError: see ``check_loggers``, or a logger cannot start.
    """
    loggers = []
    for name in check_loggers(config.logger):
        try:
            logger = LOGGERS[name][0](run)
            if name != "tensorboard":
                logger.log_hyperparams(asdict(config))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"--logger {name}: cannot start ({type(error).__name__}: {error})") from error
        loggers.append(logger)
    return loggers


def close_loggers(loggers: list[Any]) -> None:
    """Close loggers that would otherwise continue in the next run of this process."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def log_metrics(loggers: list[Any], metrics: dict[str, float | None], step: int) -> None:
    """Log the metrics that are numbers."""
    values = {f"val/{name}": value for name, value in metrics.items() if value is not None}
    for logger in loggers:
        with suppress(OSError):
            logger.log_metrics(values, step=step)
