"""The files of a study: read, compared with what is asked for, written whole."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from focaldet import __version__
from focaldet.checks import InputError, split_names
from focaldet.data import DataFolder, ignore_classes, read_folder
from focaldet.data.classes import with_classes
from focaldet.data.truth import coco_truth
from focaldet.engine.config import TrainConfig
from focaldet.engine.doctor import describe
from focaldet.engine.spec import room_for
from focaldet.evaluation.average_precision import METRICS
from focaldet.files import MOST_JSON, parse_json, read_json, read_text, write_json, write_text
from focaldet.records.study import FORMAT, Line, RungRow, Study
from focaldet.runtime.results import COCO_DETECTIONS
from focaldet.schema import check_schema
from focaldet.study.ladder import CHOSEN_HERE, choose_rungs
from focaldet.study.measure import settings_of
from focaldet.study.neuron import neuron_numbers

MAX_SEED = 2**32
"""Seeds are smaller."""

MINUTES, SEEDS = 10.0, 3
"""Of each rung, where nothing else is asked for. Fewer seeds show no spread worth the name."""

PATHS = ("data", "backbone_weights", "weights")
"""Options that name a file or folder: kept whole, so that the study goes on from wherever it is called."""

SHARED = tuple(field.name for field in fields(TrainConfig) if field.name not in (*CHOSEN_HERE, "out", "seed"))
"""Options that all rungs have in common."""


def common_settings(given: dict[str, Any]) -> dict[str, Any]:
    """All options of the rungs, from those that were given.

    Raises:
        InputError: a value that does not fit.
    """
    given = {name: str(Path(value).resolve()) if name in PATHS and value else value for name, value in given.items()}
    config = asdict(TrainConfig(**given))
    return {name: config[name] for name in SHARED}


def config_of(study: Study, row: RungRow, seed: int, run: Path) -> TrainConfig:
    """How a rung is trained."""
    return TrainConfig(**(study["settings"] | row["changes"]), seed=seed, out=str(run))


def read_photos(settings: dict[str, Any], seed: int, class_names: Sequence[str] | None = None) -> DataFolder:
    """The photos of a study as they are labelled for training and measuring: without ignored classes.

    Args:
        settings: of the study.
        seed: of splits that have to be made.
        class_names: those of a study that has begun; its photos are matched with them by name.
    """
    folder = ignore_classes(read_folder(settings["data"], seed=seed), split_names(settings.get("ignore") or ""))
    return folder if class_names is None else with_classes(folder, class_names)[0]


def split_seed(study: Study) -> int:
    """Of the splits, where the folder gives none: the same for all seeds."""
    return min(study["seeds"])


def make_study(settings: dict[str, Any], rungs: list[RungRow], seeds: Sequence[int], folder: DataFolder) -> Study:
    """The header of a new study."""
    objects = {
        split: np.bincount(
            np.concatenate([record.labels[~record.ignored] for record in records]), minlength=folder.num_classes
        ).tolist()
        for split, records in folder.splits.items()
        if records
    }
    train, asked = objects["train"], settings.get("max_detections", "auto")
    return Study(
        format=FORMAT,
        focaldet=__version__,
        data=settings["data"],
        description=f"{folder.description}; {folder.split_origin}",
        settings=settings,
        rungs=rungs,
        seeds=list(seeds),
        class_names=list(folder.class_names),
        split=measured_split(folder),
        photos={split: len(records) for split, records in folder.splits.items()},
        objects=objects,
        rare_label=min(range(len(train)), key=lambda label: (train[label] == 0, train[label])),
        machine=describe().splitlines()[0],
        max_detections=room_for(folder.splits["train"]) if asked == "auto" else max(asked, COCO_DETECTIONS),
    )


def measured_split(folder: DataFolder) -> str:
    """``"test"``, or ``"val"``, on which the best weights are chosen, when there is no other.

    Raises:
        InputError: there is neither, or nothing to train on.
    """
    if not folder.splits.get("train"):
        raise InputError(f"{folder.root}: no photo in the train split")
    for split in ("test", "val"):
        if folder.splits.get(split):
            return split
    raise InputError(f"{folder.root}: no photo to measure on: neither a test nor a val split")


def open_study(
    out: Path,
    given: dict[str, Any],
    *,
    rungs: Sequence[str] | None = None,
    seeds: int | None = None,
    **extra: Any,
) -> Study:
    """Begin a study, or go on with the one in its folder; rungs and seeds that are new are added to it.

    Args:
        out: the folder of the study.
        given: the options of ``focaldet train`` that were given; ``seed`` is that of the first of the seeds.
        rungs, extra: see ``choose_rungs``; no rungs: the whole ladder, or the rungs that the study has.
        seeds: how many; ``None``: those that the study has, or 3.

    Raises:
        InputError: an option that does not fit, or the study in the folder has other settings or other photos.
    """
    file = out / "study.json"
    first = given.get("seed", 0)
    given = {name: value for name, value in given.items() if name != "seed"}
    if file.exists():
        old = read_study(out)
        settings = old["settings"]
        wanted = common_settings({"data": settings["data"]} | given)
        check_same(str(file), settings, {name: wanted[name] for name in given})
        folder = read_photos(settings, split_seed(old), old["class_names"])
        check_photos(file, old, folder)
        rows, first, kept = old["rungs"], split_seed(old), old["seeds"]
        rungs = [*(row["name"] for row in rows if row["group"] == "ladder"), *(rungs or ())]
    else:
        if "data" not in given:
            raise InputError(f"study: --data DIR is missing: the folder of labelled photos ({file} is not there yet)")
        settings = common_settings(given if "epochs" in given else {"minutes": MINUTES} | given)
        folder = read_photos(settings, first)
        rows, kept = [], []
    chosen = {rung.name: rung.row() for rung in choose_rungs(rungs, settings=settings, **extra)}
    for row in rows:
        check_same(f"{file}: rung {row['name']}", row["changes"], chosen.setdefault(row["name"], row)["changes"])
    numbers = sorted({*kept, *range(first, first + (seeds or (0 if kept else SEEDS)))})
    study = make_study(settings, list(chosen.values()), numbers, folder)
    for row in study["rungs"]:
        config_of(study, row, first, out)  # what does not fit is said before hours of training
    if not rows:
        write_json(out / "neuron.json", neuron_numbers())  # first: it shows that the folder is a study's
        truth = coco_truth(folder.splits[study["split"]], folder.class_names, folder.category_ids)
        write_json(out / "truth.json", truth)
    write_json(file, study)
    return study


def read_study(out: Path) -> Study:
    """Read ``study.json``.

    Raises:
        InputError: missing, broken, or of another format.
    """
    file = out / "study.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; is {out} the folder of a study (focaldet study --out)?")
    value = read_json(file)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format", "none") if isinstance(value, dict) else "none"
        raise InputError(f"{file}: format {found}; this focaldet reads format {FORMAT}: choose another --out")
    try:
        check_schema("", value, Study)
        study = cast(Study, value)
        _check_study(study)
    except InputError as error:
        raise InputError(f"{file}: {str(error).removeprefix(': ')}; choose another --out") from error
    return study


def _check_study(study: Study) -> None:
    """Raise InputError where the parts of a study do not fit together. Names of rungs become names of folders."""
    known = {field.name for field in fields(TrainConfig)}
    if not study["rungs"] or not study["seeds"] or not study["class_names"]:
        raise InputError("rungs, seeds and class_names: expected at least one of each")
    for row in study["rungs"]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", row["name"]):
            raise InputError(f"rungs: {row['name']!r} is no name of a rung")
        if strange := sorted(row["changes"].keys() - known):
            raise InputError(f"rungs: {row['name']}: {strange[0]!r} is no option of training")
    if strange := sorted(study["settings"].keys() ^ set(SHARED)):
        raise InputError(f"settings: {strange[0]!r} is {'missing' if strange[0] in SHARED else 'no option of a study'}")
    if study["split"] not in study["photos"]:
        raise InputError(f"split: {study['split']!r} has no photos")
    if not all(0 <= number < MAX_SEED for number in study["seeds"]):
        raise InputError(f"seeds: expected numbers of at least 0, got {study['seeds']}")
    if not 0 <= study["rare_label"] < len(study["class_names"]):
        raise InputError(f"rare_label: expected the number of a class, got {study['rare_label']}")


def read_lines(out: Path) -> list[Line]:
    """The lines of ``study.jsonl``.

    Raises:
        InputError: a line is not one.
    """
    file = out / "study.jsonl"
    lines: list[Line] = []
    for number, text in enumerate(read_text(file, MOST_JSON).splitlines() if file.exists() else [], start=1):
        where = f"{file}: line {number}"
        try:
            line = parse_json(text)
        except ValueError as error:
            raise InputError(f"{where} is broken; delete it to train its rung again") from error
        lines.append(checked_line(line, where))
    return lines


def checked_line(value: Any, where: str) -> Line:
    """A line of ``study.jsonl``.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise InputError(f"{where} has format {value['format']}; this focaldet reads format {FORMAT}")
    try:
        check_schema("", value, Line)
        if missing := [name for name in METRICS if name not in value["metrics"]]:
            raise InputError(f"metrics: {missing[0]!r} is missing")
    except InputError as error:
        fault = str(error).removeprefix(": ")
        raise InputError(f"{where} is broken ({fault}); delete it to train its rung again") from error
    return cast(Line, value)


def append_line(out: Path, line: Line) -> None:
    """Add a line; the file is written anew, so that a kill leaves the old one or the new one."""
    file = out / "study.jsonl"
    before = read_text(file, MOST_JSON) if file.exists() else ""
    write_text(file, before + "\n" * (before != "" and not before.endswith("\n")) + json.dumps(line) + "\n")


def check_lines(out: Path, study: Study, lines: Sequence[Line]) -> None:
    """Raise InputError when a line was trained with other settings than the study's."""
    rows = {row["name"]: row for row in study["rungs"]}
    for line in lines:
        if line["rung"] in rows:
            config = config_of(study, rows[line["rung"]], line["seed"], out)
            where = f"{out / 'study.jsonl'}: {line['rung']}, seed {line['seed']}"
            check_same(where, line["settings"], settings_of(config))


def check_same(where: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise InputError that names what differs, in what both have.

    >>> check_same("study.json", {"size": 320, "batch": 8}, {"size": 64, "batch": 8})
    Traceback (most recent call last):
    ...
    focaldet.checks.InputError: study.json: size is 320 there, 64 here; choose another --out, or leave the option out
    """
    different = [name for name in here if name in there and there[name] != here[name]]
    if different:
        what = "; ".join(f"{name} is {there[name]} there, {here[name]} here" for name in different)
        raise InputError(f"{where}: {what}; choose another --out, or leave the option out")


def check_photos(file: Path, study: Study, folder: DataFolder) -> None:
    """Raise InputError when the photos are not those that the study began with."""
    then, now = (
        cast(dict[str, Any], study),
        cast(dict[str, Any], make_study(study["settings"], [], study["seeds"], folder)),
    )
    for name in ("class_names", "photos", "objects"):
        if now[name] != then[name]:
            raise InputError(
                f"{file}: the photos in {folder.root} have changed since the study began ({name}: {then[name]} then, "
                f"{now[name]} now); choose another --out"
            )
