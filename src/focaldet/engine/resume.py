"""The configuration of a resumed run: its own settings, some of them replaced."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from focaldet.checks import InputError
from focaldet.engine.config import TrainConfig, load_config

FIXED = {
    **dict.fromkeys(("method", "backbone", "levels", "channels", "head_depth", "num_bins"), "its weights fit no other"),
    **dict.fromkeys(
        ("weights", "pretrained", "backbone_weights", "prior_prob"), "it only matters when training starts"
    ),
    "class_loss": "its scores would mean something else",
    "ignore": "its classes were chosen with it",
}
"""Option that a resumed run cannot change -> the reason."""

_OF_THE_CALL = ("resume", "out")


def resumed_config(run: Path, given: Mapping[str, Any]) -> tuple[TrainConfig, list[str]]:
    """Build the configuration of a resumed run.

    Args:
        run: the run folder.
        given: options that replace single values.

    Returns:
        The configuration, and a line for each value that is replaced.

    Raises:
        InputError: no such run, its ``config.yaml`` is damaged, or an option cannot change.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise InputError(f"--resume: {file} does not exist; there is nothing to continue")
    before = load_config(file)
    changes = {name: value for name, value in given.items() if name not in _OF_THE_CALL}
    if "epochs" in changes and "minutes" not in changes:
        changes["minutes"] = None  # a run has only one of the two lengths
    after = replace(before, **changes, resume=True, out=str(run))
    lines = []
    for field in fields(TrainConfig):
        name = field.name
        old, new = getattr(before, name), getattr(after, name)
        if old == new or name in _OF_THE_CALL:
            continue
        if name in FIXED:
            raise InputError(f"{_option(name)} {_shown(new)}: the run has {_shown(old)}, and {FIXED[name]}")
        lines.append(f"{_option(name)}: {_shown(new)} instead of {_shown(old)}")
    if not Path(after.data).exists():
        raise InputError(f"{file}: its photo folder {after.data} does not exist; give its new place with --data DIR")
    return after, lines


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def check_fixed(config: TrainConfig) -> None:
    """Raise InputError if a configuration for resuming changes an option that cannot change."""
    run = Path(str(config.out))
    if (run / "config.yaml").is_file():
        resumed_config(run, asdict(config))


def is_finished(config: TrainConfig, checkpoint: Mapping[str, Any]) -> bool:
    """Whether a run has reached its full length.

    Args:
        checkpoint: the run's last checkpoint.

    Raises:
        InputError: the run has already trained for more epochs than that.
    """
    epochs, seconds = int(checkpoint["epoch"]) + 1, float(checkpoint["callbacks"]["TimeBudget"]["elapsed_s"])
    if config.minutes is not None:
        return seconds >= 60 * config.minutes
    if epochs > config.epochs:
        raise InputError(f"--epochs {config.epochs}: the run has already trained {epochs} epochs; ask for more")
    return epochs == config.epochs
