"""Train and measure one rung and seed in a separate process: ``python -m focaldet.study.worker STUDY RUNG SEED``.

The study starts this process. It ends with the study, when its standard input is closed.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

from focaldet.checks import InputError, printable
from focaldet.data.classes import with_classes
from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder
from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.module import NotFiniteError
from focaldet.engine.train import train
from focaldet.files import read_json, write_json, write_text
from focaldet.schema import check_schema
from focaldet.study.folder import check_same, config_of, read_photos, read_study, split_seed
from focaldet.study.folds import photos_of, training_name
from focaldet.study.measure import measure, settings_of

Say = Callable[[str], None]


class Trained(TypedDict):
    """``trained.json``: why the training diverged, or ``null``."""

    diverged: str | None


def key_of(rung: str, seed: int) -> str:
    """File name stem for a rung and seed."""
    return f"{rung}-{seed}"


def run_folder(out: Path, rung: str, seed: int) -> Path:
    """Run folder of a rung and seed."""
    return out / "runs" / key_of(rung, seed)


def line_file(out: Path, rung: str, seed: int) -> Path:
    """File of a finished line until the study stores it."""
    return run_folder(out, rung, seed) / "line.json"


def do_rung(out: Path, rung: str, seed: int, *, say: Say = print) -> None:
    """Train or resume, then measure; write ``line.json`` to the run folder and the details to the study folder.

    Raises:
        InputError: the run folder contains a run with other settings.
    """
    study = read_study(out)
    row = next(row for row in study["rungs"] if row["name"] == rung)
    folder = read_folder(study["settings"]["data"], seed=split_seed(study))
    ignored = [name for name in folder.class_names if name not in study["class_names"]]  # training leaves them out
    folder, _ = with_classes(folder, [*study["class_names"], *ignored])
    folds, number = study.get("folds"), study["seeds"].index(seed)
    config = config_of(study, row, seed, run_folder(out, rung, seed))
    diverged = train_rung(config, photos_of(folder, folds, number), say)
    say(f"measuring on {training_name(study, seed)}" if folds else f"measuring on the {study['split']} split")
    folder = photos_of(read_photos(study["settings"], split_seed(study), study["class_names"]), folds, number)
    line, details = measure(rung, config, folder, study["split"], diverged)
    write_text(out / "details" / f"{key_of(rung, seed)}.json", json.dumps(details))  # half the size of an indented file
    write_json(line_file(out, rung, seed), line)
    (run_folder(out, rung, seed) / "last.ckpt").unlink(missing_ok=True)  # four times the weights, not needed any more


def train_rung(config: TrainConfig, folder: DataFolder, say: Say) -> str | None:
    """Train the run unless it has been trained already.

    Returns:
        The reason why training diverged, or ``None``.
    """
    run = Path(str(config.out))
    done = run / "trained.json"
    if (run / "config.yaml").exists():
        before = settings_of(load_config(run / "config.yaml"))
        check_same(f"{run}: a run with other settings", before, settings_of(config))
    if not done.exists():
        resume = (run / "last.ckpt").exists()
        if not resume:
            shutil.rmtree(run, ignore_errors=True)  # stopped in its first epoch, without a checkpoint
        diverged = None
        try:
            train(replace(config, resume=resume), folder=folder, say=say)
        except NotFiniteError as error:
            diverged = str(error).partition(";")[0]
            say(f"diverged: {diverged}")
        write_json(done, {"diverged": diverged})
    reason = read_json(done)
    check_schema(str(done), reason, Trained)
    return cast(Trained, reason)["diverged"]


def _end_with_the_study() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock Python needs at exit
        pass
    os._exit(1)


def main(arguments: list[str]) -> int:
    """Do one rung. Return 0, or 2 after a user error, which is printed in one line."""
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    out, rung, seed = Path(arguments[0]), arguments[1], int(arguments[2])
    try:
        do_rung(out, rung, seed, say=partial(print, flush=True))
    except InputError as error:
        print(printable(str(error)), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
