"""``focaldet tune``: search the options of training by Optuna, by AP on the validation photos."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from focaldet.checks import InputError, check_range, near_name
from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder
from focaldet.engine.beginning import with_chosen_weights
from focaldet.engine.callbacks import RunRecorder
from focaldet.engine.config import TrainConfig
from focaldet.engine.module import NotFiniteError
from focaldet.engine.option import as_options
from focaldet.engine.spec import METHODS
from focaldet.engine.train import train
from focaldet.files import write_text
from focaldet.folders import alone_in, check_out
from focaldet.study.space import MINUTES, SEEDS, SPACE, TRIALS, USUAL

if TYPE_CHECKING:
    import optuna

Say = Callable[[str], None]
PER_RUN = 5
"""Measurements of AP in a run; a trial can be stopped after each."""


class _Report(Callback):
    """Reports each measured AP to the trial, and stops a run when the trial is pruned."""

    def __init__(self, trial: "optuna.Trial", before: Sequence[float]) -> None:
        self.trial, self.before, self.pruned, self.best = trial, before, False, 0.0
        self.seen = -1

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        recorder = next(callback for callback in trainer.callbacks if isinstance(callback, RunRecorder))  # type: ignore[attr-defined]
        if recorder.measured == self.seen:
            return
        self.seen, self.best = recorder.measured, max(recorder.best, 0.0)
        mean = (sum(self.before) + self.best) / (len(self.before) + 1)
        self.trial.report(mean, step=len(self.before) * PER_RUN + min(self.seen, PER_RUN))
        if self.trial.should_prune():
            self.pruned = trainer.should_stop = True


def run_tune(
    given: dict[str, Any],
    *,
    out: Path | None = None,
    trials: int = TRIALS,
    seeds: int = SEEDS,
    space: Sequence[str] = USUAL,
    say: Say = print,
) -> Path:
    """Search the space, or continue a search in its folder.

    Args:
        given: options of ``focaldet train`` that stay fixed; ``seed`` is the first of the seeds.
        out: folder of the search; ``None``: named after the data.
        trials: number of trials, including those already in the folder. The first one has the default options.
        seeds: trainings per trial; its value is their mean AP on val.
        space: names in ``SPACE``; fixed options are left out.
        say: prints a line.

    Returns:
        The folder, with ``tune.db`` (Optuna's storage), ``result.txt`` and a run folder for each training.

    Raises:
        InputError: Optuna is not installed, there is no val split, or an option does not fit.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise InputError("tune: optuna is not installed; pip install optuna") from error
    check_range("--trials", trials, 1, 100_000)
    check_range("--seeds", seeds, 1, 1000)
    for name in space:
        if name not in SPACE:
            raise InputError(f"--space {name}: cannot be searched; {near_name(name, SPACE)}")
    searched = [name for name in dict.fromkeys(space) if name not in given]
    if not searched:
        raise InputError("--space: nothing left to search: all its options are given")
    if "data" not in given:
        raise InputError("tune: --data DIR is missing: the folder of labelled photos")
    given = given if "epochs" in given else {"minutes": MINUTES} | given
    config = with_chosen_weights(TrainConfig(**given), say)
    given = given | {"pretrained": config.pretrained}  # the same for all trials
    folder = read_folder(config.data, seed=config.seed)
    if not folder.splits.get("val"):
        raise InputError(f"{config.data}: no val split; trials are compared by its AP")
    out = Path("tunes") / Path(config.data).resolve().name if out is None else out
    check_out(out, "a search")
    with alone_in(out, "tune"):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = f"sqlite:///{(out / 'tune.db').resolve()}"
        study = optuna.create_study(
            storage=storage,
            study_name="tune",
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        )
        _check_same(study, asdict(config) | {"seeds": seeds, "space": searched})
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # left behind by a killed search
        if not study.trials:
            usual = {field.name: field.default for field in fields(TrainConfig)}
            usual["class_loss"] = METHODS[config.method].class_loss
            study.enqueue_trial({name: usual[name] for name in (*searched, "beta", "alpha", "gamma")})
        say("searched: " + "; ".join(f"--{name.replace('_', '-')} {SPACE[name][0]}" for name in searched))
        objective = _objective(given, folder, out, searched, seeds, say)
        while (done := len(_finished(study))) < trials:
            # A continued search draws the same values as an uninterrupted one.
            study.sampler = optuna.samplers.TPESampler(seed=config.seed + done)
            study.optimize(objective, n_trials=1, catch=())
            write_text(out / "result.txt", result_text(study, given) + "\n")
        say(result_text(study, given))
    return out


def _objective(
    given: dict[str, Any], folder: DataFolder, out: Path, searched: Sequence[str], seeds: int, say: Say
) -> Callable[["optuna.Trial"], float]:
    import optuna

    def objective(trial: "optuna.Trial") -> float:
        changes: dict[str, Any] = {}
        for name in searched:
            changes |= SPACE[name][1](trial)
        trial.set_user_attr("changes", changes)
        values: list[float] = []
        for repeat in range(seeds):
            seed = given.get("seed", 0) + repeat
            run = out / "runs" / f"{trial.number}-{seed}"
            number = 2
            while run.exists():  # from a killed trial
                run, number = run.with_name(f"{trial.number}-{seed}-{number}"), number + 1
            report = _Report(trial, values)
            try:
                train(
                    TrainConfig(**given | changes | {"seed": seed, "out": str(run)}),
                    folder=folder,
                    callbacks=[report],
                    say=lambda line: None,
                )
            except NotFiniteError:
                values.append(0.0)
                continue
            finally:
                (run / "last.ckpt").unlink(missing_ok=True)  # four times the weights
            if report.pruned:
                say(f"trial {trial.number}: {as_options(changes)}: stopped early at val AP {report.best:.3f}")
                raise optuna.TrialPruned
            values.append(report.best)
        mean = math.fsum(values) / len(values)
        say(f"trial {trial.number}: {as_options(changes)}: val AP {mean:.3f}")
        return mean

    return objective


def _check_same(study: "optuna.Study", settings: dict[str, Any]) -> None:
    """Raise InputError if the search in the folder has other fixed options."""
    settings = {name: value for name, value in settings.items() if name not in ("out", "resume", "profile")}
    before = study.user_attrs.get("settings", settings)
    if different := [name for name in settings if before.get(name) != settings[name]]:
        name = different[0]
        raise InputError(
            f"tune: the search in this folder has {name} {before.get(name)}, not {settings[name]}; choose another --out"
        )
    study.set_user_attr("settings", settings)


def _finished(study: "optuna.Study") -> list[Any]:
    from optuna.trial import TrialState

    return list(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


def result_text(study: "optuna.Study", given: dict[str, Any], most: int = 10) -> str:
    """The best trials and the default as a table, and the command that trains with the best options."""
    from optuna.trial import TrialState

    complete = sorted(
        study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: trial.value or 0.0, reverse=True
    )
    pruned = len(study.get_trials(states=(TrialState.PRUNED,)))
    lines = [f"{len(complete)} trials, {pruned} more stopped early; val AP:"]
    shown = [*complete[:most], *(trial for trial in complete[most:] if trial.number == 0)]
    for trial in shown:
        mark = " (the default options)" if trial.number == 0 else ""
        lines.append(f"  {trial.value:.3f}  trial {trial.number}: {as_options(trial.user_attrs['changes'])}{mark}")
    if complete:
        fixed = {name: value for name, value in given.items() if name not in ("out", "resume")}
        command = f"focaldet train {as_options(fixed | complete[0].user_attrs['changes'])}"
        lines.append(
            "The best of many trials is partly luck. Train it again with other seeds and measure it on the test split:"
        )
        lines.append(f"  {command}")
    return "\n".join(lines)
