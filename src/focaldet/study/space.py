"""Search space and default effort of ``focaldet tune``. The command line reads it without torch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Suggest = Callable[["optuna.Trial"], dict[str, Any]]

TRIALS, SEEDS, MINUTES = 20, 1, 3.0
"""Defaults: trials, trainings per trial, and minutes per training."""


def _log(name: str, low: float, high: float) -> Suggest:
    return lambda trial: {name: float(f"{trial.suggest_float(name, low, high, log=True):.3g}")}


def _one_of(name: str, values: Sequence[str | float]) -> Suggest:
    return lambda trial: {name: trial.suggest_categorical(name, values)}


def _class_loss(trial: "optuna.Trial") -> dict[str, Any]:
    loss = trial.suggest_categorical("class_loss", ("quality_focal", "focal"))
    if loss == "quality_focal":
        return {"class_loss": loss, "beta": round(trial.suggest_float("beta", 0.5, 3), 2)}
    alpha, gamma = trial.suggest_float("alpha", 0.1, 0.9), trial.suggest_float("gamma", 0, 4)
    return {"class_loss": loss, "alpha": round(alpha, 2), "gamma": round(gamma, 2)}


SPACE: dict[str, tuple[str, Suggest]] = {
    "lr": ("0.0003 to 0.02", _log("lr", 3e-4, 2e-2)),
    "weight_decay": ("0.001 to 0.2", _log("weight_decay", 1e-3, 0.2)),
    "ema": (
        "0.98, 0.99, 0.995 or 0.998",
        lambda trial: {"ema": trial.suggest_categorical("ema", (0.98, 0.99, 0.995, 0.998))},
    ),
    "augment": (
        "none, light, medium, strong, or light with mosaic, copy-paste or rotate",
        _one_of(
            "augment",
            ("none", "light", "medium", "strong", "light,mosaic", "light,copy-paste", "light,rotate"),
        ),
    ),
    "class_loss": (
        "quality_focal with beta 0.5 to 3, or focal with alpha 0.1 to 0.9 and gamma 0 to 4",
        _class_loss,
    ),
}
"""Option -> its values in words, and the function that suggests one. ``class_loss`` also sets its own options."""

USUAL = ("lr", "augment", "class_loss")
