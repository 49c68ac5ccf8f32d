"""Train a run's configuration on folds of the photos, so that a model judges each photo without having seen it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from focaldet.checks import InputError, check_range
from focaldet.data.folds import Fold, all_photos, stratified_folds, with_fold
from focaldet.data.records import DataFolder
from focaldet.engine.budget import TimeBudget
from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.train import train
from focaldet.files import read_json, write_json
from focaldet.study.folder import check_same
from focaldet.study.measure import settings_of

Say = Callable[[str], None]

FILE = "folds.json"
"""Settings, and the photos of each fold; marks the folder."""

ONLY_AT_THE_END = 2**31
"""``val_every`` of a fold: it keeps its last weights, not the ones that fit the labels of val best."""


def fold_config(run: Path, data: Path, changes: dict[str, Any]) -> TrainConfig:
    """The configuration of a run, for its folds.

    Raises:
        InputError: the run was not trained here, or a change does not fit.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise InputError(f"{run}: has no config.yaml, which training the folds needs; give a run of focaldet train")
    if "epochs" in changes and "minutes" not in changes:
        changes = changes | {"minutes": None}
    return load_config(
        file, **changes, data=str(data.resolve()), resume=False, logger="none", val_every=ONLY_AT_THE_END
    )


def open_folds(out: Path, config: TrainConfig, folder: DataFolder, count: int) -> list[Fold]:
    """Divide the photos and write ``folds.json``, or check that the folder has the same folds and settings.

    Raises:
        InputError: the folder was started with other photos or settings.
    """
    check_range("--folds", count, 3, 100)
    folds = stratified_folds(all_photos(folder), folder.num_classes, count, config.seed)
    here: dict[str, Any] = {
        "class_names": list(folder.class_names),
        "settings": settings_of(config),
        "folds": [[record.file_name for record in fold] for fold in folds],
    }
    file = out / FILE
    if file.exists():
        there = read_json(file)
        if not isinstance(there, dict) or there.keys() != here.keys() or not isinstance(there["settings"], dict):
            raise InputError(f"{file}: damaged; choose another --out")
        check_same(str(file), there["settings"], here["settings"])
        if there != here:
            raise InputError(f"{file}: the photos or the number of folds have changed; choose another --out")
    else:
        write_json(file, here)
    return folds


def train_folds(
    out: Path, config: TrainConfig, folder: DataFolder, folds: Sequence[Fold], *, say: Say
) -> Iterator[tuple[Path, Fold]]:
    """Train a run per fold, on the other folds. Yields the run and the photos that it has not seen.

    A finished run is reused, and a stopped one continues from its last epoch.

    Raises:
        InputError: a training was stopped, or it diverged.
    """
    for number, fold in enumerate(folds):
        run = out / f"fold-{number + 1}"
        checkpoint = run / "last.ckpt"
        if not (run / "evaluation.json").exists() or checkpoint.exists():
            say(f"fold {number + 1} of {len(folds)}")
            if not checkpoint.exists():
                shutil.rmtree(run, ignore_errors=True)  # stopped in its first epoch
            watch = _Watch()
            settings = replace(config, out=str(run), resume=checkpoint.exists())
            train(settings, folder=with_fold(folder, folds, number), callbacks=[watch], say=say)
            if watch.interrupted:
                raise InputError(f"stopped in fold {number + 1}; the same command continues")
            checkpoint.unlink()  # its absence marks a finished run
        yield run, fold


class _Watch(Callback):
    """Records whether a signal ended training, since ``train`` then returns as usual."""

    interrupted = False

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        clocks = [callback for callback in trainer.callbacks if isinstance(callback, TimeBudget)]  # type: ignore[attr-defined]
        self.interrupted = any(clock.interrupted for clock in clocks)
