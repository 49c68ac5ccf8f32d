"""Read, check and write the files of a study."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from focaldet import __version__
from focaldet.checks import InputError, split_names
from focaldet.data.classes import with_classes
from focaldet.data.folder import read_folder
from focaldet.data.folds import all_photos
from focaldet.data.ignore import ignore_classes
from focaldet.data.rare import count_objects
from focaldet.data.records import DataFolder
from focaldet.data.truth import coco_truth
from focaldet.engine.beginning import with_chosen_weights
from focaldet.engine.config import TrainConfig
from focaldet.engine.doctor import describe
from focaldet.engine.hub import is_on_hub
from focaldet.engine.pyramid import with_levels
from focaldet.engine.spec import room_for
from focaldet.evaluation.average_precision import METRICS
from focaldet.files import MAX_JSON, parse_json, read_json, read_text, write_json, write_text
from focaldet.records.study import FORMAT, Line, RungRow, Study
from focaldet.runtime.results import COCO_DETECTIONS
from focaldet.schema import check_schema
from focaldet.study.folds import Names, divide, missing_classes, photos_of, split_by_fold
from focaldet.study.ladder import CHOSEN_HERE, RUNGS, choose_rungs
from focaldet.study.measure import settings_of
from focaldet.study.neuron import neuron_numbers
from focaldet.study.rung import teacher_rung

MAX_SEED = 2**32
"""Upper bound of a seed, exclusive."""

MINUTES, SEEDS = 10.0, 3
"""Defaults per rung. Fewer than three seeds give no useful spread."""

PATHS = ("data", "backbone_weights", "weights")
"""Options that name a file or folder; stored as absolute paths, so that the study can be continued from anywhere."""

SHARED = tuple(field.name for field in fields(TrainConfig) if field.name not in (*CHOSEN_HERE, "out", "seed"))
"""Options that all rungs share."""


def common_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Complete the given options to all options that the rungs share.

    Raises:
        InputError: a value does not fit, or the photos would be split into windows.
    """
    if given.get("tile") is not None:
        raise InputError("--tile: a study measures its detectors on whole photos; compare runs on windows with eval")
    places = [name for name in PATHS if given.get(name) and not is_on_hub(given[name])]
    given = given | {name: str(Path(given[name]).resolve()) for name in places}
    config = asdict(TrainConfig(**given))
    return {name: config[name] for name in SHARED}


def config_of(study: Study, row: RungRow, seed: int, run: Path) -> TrainConfig:
    """Training configuration of a rung and seed; the run of its teacher's rung, if any, is next to its own."""
    changes, teacher = row["changes"], teacher_rung(row["changes"])
    if teacher is not None:
        changes = changes | {"teacher": str(run.parent / f"{teacher}-{seed}")}
    return TrainConfig(**(study["settings"] | changes), seed=seed, out=str(run))


def read_photos(settings: dict[str, Any], seed: int, class_names: Sequence[str] | None = None) -> DataFolder:
    """Read the photos of a study, with the labels for training and measuring: without ignored classes.

    Args:
        settings: settings of the study.
        seed: seed for automatic splits.
        class_names: classes of an existing study; the photos' classes are matched with them by name.
    """
    folder = ignore_classes(read_folder(settings["data"], seed=seed), split_names(settings.get("ignore") or ""))
    return folder if class_names is None else with_classes(folder, class_names)[0]


def split_seed(study: Study) -> int:
    """Seed for automatic splits; the same for all seeds of the study."""
    return min(study["seeds"])


def make_study(
    settings: dict[str, Any],
    rungs: list[RungRow],
    seeds: Sequence[int],
    folder: DataFolder,
    folds: Names | None = None,
) -> Study:
    """Build ``study.json`` for a new study."""
    split, training = ("test", all_photos(folder)) if folds else (measured_split(folder), folder.splits["train"])
    folder = split_by_fold(folder, folds) if folds else folder
    train, asked = count_objects(training, folder.num_classes).tolist(), settings.get("max_detections", "auto")
    study = Study(
        format=FORMAT,
        focaldet=__version__,
        data=settings["data"],
        description=f"{folder.description}; {folder.split_origin}",
        settings=settings,
        rungs=rungs,
        seeds=list(seeds),
        class_names=list(folder.class_names),
        split=split,
        photos={split: len(records) for split, records in folder.splits.items()},
        objects={
            split: count_objects(records, folder.num_classes).tolist()
            for split, records in folder.splits.items()
            if records
        },
        rare_label=min(range(len(train)), key=lambda label: (train[label] == 0, train[label])),
        machine=describe().splitlines()[0],
        max_detections=room_for(training) if asked == "auto" else max(asked, COCO_DETECTIONS),
    )
    if folds:
        study["folds"] = folds
    return study


def measured_split(folder: DataFolder) -> str:
    """The split to measure: ``"test"``, or ``"val"`` if there is no test split, though it also selects the weights.

    Raises:
        InputError: there is neither, or no training photo.
    """
    if not folder.splits.get("train"):
        raise InputError(f"{folder.root}: no photo in the train split")
    for split in ("test", "val"):
        if folder.splits.get(split):
            return split
    raise InputError(f"{folder.root}: no photos to measure: there is neither a test nor a val split")


def open_study(
    out: Path,
    given: dict[str, Any],
    *,
    rungs: Sequence[str] | None = None,
    seeds: int | None = None,
    folds: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    **extra: Any,
) -> Study:
    """Start a study, or continue the one in its folder; new rungs and seeds are added to it.

    Args:
        out: study folder.
        given: options of ``focaldet train``; ``seed`` is the first of the seeds.
        rungs, extra: see ``choose_rungs``; without ``rungs``: the whole ladder, or the rungs of the existing study.
        seeds: number of seeds; ``None``: as in the existing study, or 3.
        folds: number of folds instead: all photos are divided, and each rung is trained once per fold.
        say: prints a line about the weights from which all rungs start.

    Raises:
        InputError: an option does not fit, or the study in the folder has other settings or other photos.
    """
    if folds is not None and seeds is not None:
        raise InputError("--folds: each fold has its own seed, so it replaces --seeds; leave one out")
    file = out / "study.json"
    first = given.get("seed", 0)
    given = {name: value for name, value in given.items() if name != "seed"}
    if file.exists():
        old = read_study(out)
        _check_repeats(file, old, seeds, folds)
        settings = old["settings"]
        wanted = common_settings({"data": settings["data"]} | given)
        check_same(str(file), settings, {name: wanted[name] for name in given})
        folder = read_photos(settings, split_seed(old), old["class_names"])
        check_photos(file, old, folder)
        rows, first, kept, divided = old["rungs"], split_seed(old), old["seeds"], old.get("folds")
        rungs = [*(row["name"] for row in rows if row["name"] in RUNGS), *(rungs or ())]
    else:
        if "data" not in given:
            raise InputError(f"study: --data DIR is missing: the folder of labelled photos ({file} does not exist yet)")
        settings = common_settings(given if "epochs" in given else {"minutes": MINUTES} | given)
        folder = read_photos(settings, first)
        divided = None if folds is None else divide(folder, folds, first)
        for line in [] if divided is None else missing_classes(folder, divided):
            say(line)
        settings = common_settings(settings | _same_for_all(settings, folder, divided, say))
        rows, kept = [], []
    chosen = {rung.name: rung.row() for rung in choose_rungs(rungs, settings=settings, **extra)}
    for row in rows:
        check_same(f"{file}: rung {row['name']}", row["changes"], chosen.setdefault(row["name"], row)["changes"])
    if not rows:  # once, so that no rung starts from other weights because of a network outage
        settings["pretrained"] = with_chosen_weights(TrainConfig(**settings), say).pretrained
    numbers = sorted({*kept, *range(first, first + (seeds or folds or (0 if kept else SEEDS)))})
    study = make_study(settings, list(chosen.values()), numbers, folder, divided)
    for row in study["rungs"]:
        config_of(study, row, first, out)  # report invalid options before hours of training
    if not rows:
        write_json(out / "neuron.json", neuron_numbers())  # written first: it marks the folder as a study folder
        measured = folder.splits[study["split"]] if divided is None else all_photos(split_by_fold(folder, divided))
        truth = coco_truth(measured, folder.class_names, folder.category_ids)
        write_json(out / "truth.json", truth)
    write_json(file, study)
    return study


def _check_repeats(file: Path, study: Study, seeds: int | None, folds: int | None) -> None:
    """Raise InputError if a study cannot be continued with this number of seeds or folds."""
    there = len(study["folds"]) if "folds" in study else None
    if there is None and folds is not None:
        raise InputError(f"{file}: the study has seeds, not folds; choose another --out, or leave out --folds")
    if there is not None and seeds is not None:
        raise InputError(f"{file}: the study has {there} folds, not seeds; choose another --out, or leave out --seeds")
    if there is not None and folds not in (None, there):
        raise InputError(
            f"{file}: the study has {there} folds, not {folds}; choose another --out, or leave out --folds"
        )


def _same_for_all(
    settings: dict[str, Any], folder: DataFolder, folds: Names | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Automatic settings, chosen once, so that they do not differ between rungs or folds."""
    chosen: dict[str, Any] = {"levels": with_levels(TrainConfig(**settings), photos_of(folder, folds, 0), say).levels}
    if folds is not None and settings["max_detections"] == "auto":
        room = room_for(all_photos(folder))
        chosen |= {"max_detections": room} if room > COCO_DETECTIONS else {}  # otherwise it is the same in every fold
    return chosen


def read_study(out: Path) -> Study:
    """Read ``study.json``.

    Raises:
        InputError: the file is missing or damaged, or has another format.
    """
    file = out / "study.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; is {out} a study folder (focaldet study --out)?")
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
    """Raise InputError if the parts of a study contradict each other. Names of rungs become names of folders."""
    known = {field.name for field in fields(TrainConfig)}
    if not study["rungs"] or not study["seeds"] or not study["class_names"]:
        raise InputError("rungs, seeds and class_names: expected at least one of each")
    for row in study["rungs"]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", row["name"]):
            raise InputError(f"rungs: {row['name']!r} is not a valid rung name")
        if strange := sorted(row["changes"].keys() - known):
            raise InputError(f"rungs: {row['name']}: {strange[0]!r} is not an option of train")
    if strange := sorted(study["settings"].keys() ^ set(SHARED)):
        raise InputError(
            f"settings: {strange[0]!r} is {'missing' if strange[0] in SHARED else 'not an option of a study'}"
        )
    if "folds" in study and not 3 <= len(study["folds"]) == len(study["seeds"]):
        raise InputError(f"folds: expected at least 3, one for each seed, got {len(study['folds'])}")
    if study["split"] not in (("test",) if "folds" in study else study["photos"]):
        raise InputError(f"split: {study['split']!r} has no photos")
    if not all(0 <= number < MAX_SEED for number in study["seeds"]):
        raise InputError(f"seeds: expected numbers of at least 0, got {study['seeds']}")
    if not 0 <= study["rare_label"] < len(study["class_names"]):
        raise InputError(f"rare_label: expected the index of a class, got {study['rare_label']}")


def read_lines(out: Path) -> list[Line]:
    """Read ``study.jsonl``.

    Raises:
        InputError: a line is damaged.
    """
    file = out / "study.jsonl"
    lines: list[Line] = []
    for number, text in enumerate(read_text(file, MAX_JSON).splitlines() if file.exists() else [], start=1):
        where = f"{file}: line {number}"
        try:
            line = parse_json(text)
        except ValueError as error:
            raise InputError(f"{where} is damaged; delete it to train its rung again") from error
        lines.append(checked_line(line, where))
    return lines


def checked_line(value: Any, where: str) -> Line:
    """Check a line of ``study.jsonl``.

    Raises:
        InputError: the line is damaged.
    """
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise InputError(f"{where} has format {value['format']}; this focaldet reads format {FORMAT}")
    try:
        check_schema("", value, Line)
        if missing := [name for name in METRICS if name not in value["metrics"]]:
            raise InputError(f"metrics: {missing[0]!r} is missing")
    except InputError as error:
        fault = str(error).removeprefix(": ")
        raise InputError(f"{where} is damaged ({fault}); delete it to train its rung again") from error
    return cast(Line, value)


def append_line(out: Path, line: Line) -> None:
    """Add a line. The file is replaced as a whole, so that a kill leaves either the old or the new file."""
    file = out / "study.jsonl"
    before = read_text(file, MAX_JSON) if file.exists() else ""
    write_text(file, before + "\n" * (before != "" and not before.endswith("\n")) + json.dumps(line) + "\n")


def check_lines(out: Path, study: Study, lines: Sequence[Line]) -> None:
    """Raise InputError if a line was trained with settings other than the study's."""
    rows = {row["name"]: row for row in study["rungs"]}
    for line in lines:
        if line["rung"] in rows:
            config = config_of(study, rows[line["rung"]], line["seed"], out)
            where = f"{out / 'study.jsonl'}: {line['rung']}, seed {line['seed']}"
            check_same(where, line["settings"], settings_of(config))


def check_same(where: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise InputError if a key in both dictionaries has different values.

    >>> check_same("study.json", {"size": 320, "batch": 8}, {"size": 64, "batch": 8})
    Traceback (most recent call last):
    ...
    focaldet.checks.InputError: study.json: size is 320, not 64; choose another --out, or leave the option out
    """
    different = [name for name in here if name in there and there[name] != here[name]]
    if different:
        what = "; ".join(f"{name} is {there[name]}, not {here[name]}" for name in different)
        raise InputError(f"{where}: {what}; choose another --out, or leave the option out")


def check_photos(file: Path, study: Study, folder: DataFolder) -> None:
    """Raise InputError if the photos have changed since the study started."""
    then, now = (
        cast(dict[str, Any], study),
        cast(dict[str, Any], make_study(study["settings"], [], study["seeds"], folder, study.get("folds"))),
    )
    for name in ("class_names", "photos", "objects"):
        if now[name] != then[name]:
            raise InputError(
                f"{file}: the photos in {folder.root} have changed since the study started ({name}: {then[name]} then, "
                f"{now[name]} now); choose another --out"
            )
