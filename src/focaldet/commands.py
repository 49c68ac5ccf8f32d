"""The work of each command: takes the parsed options and returns an exit code, or ``None`` for 0."""

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focaldet.checks import InputError, split_names
from focaldet.folders import check_out
from focaldet.options import option_name
from focaldet.serve.limits import Limits
from focaldet.terminal import mistake, say

if TYPE_CHECKING:
    from focaldet.engine.config import TrainConfig

STUDY_OPTIONS = ("out", "seeds", "folds", "rungs", "gammas", "betas", "bins", "parallel")
"""Options of the study itself; all others apply to its rungs."""

SHOWN_OPTIONS = ("data", "size", "augment", "flips", "transform", "seed")
"""Training options that ``data show`` also has."""


def train(chosen: Namespace) -> int | None:
    """``focaldet train``"""
    from focaldet.engine.interruption import Terminated
    from focaldet.engine.processes import is_first_process
    from focaldet.engine.train import train
    from focaldet.report import write_report

    config, code = train_config(**vars(chosen)), None
    try:
        run = train(config, say=say)
    except Terminated as end:
        run, code = end.run, end.exit_code
    if not is_first_process(config):
        return code
    say(f"report: {write_report(run)}")
    say(f"measure it on the test split: focaldet eval {run} --data {config.data} --split test")
    say(f"use it: focaldet predict {run} PHOTO... --out FOLDER")
    return code


def evaluate(chosen: Namespace) -> None:
    """``focaldet eval``"""
    from focaldet.engine.evaluate import evaluate_run
    from focaldet.report import write_report

    options = {name: getattr(chosen, name) for name in ("max_detections", "tile", "overlap", "device")}
    evaluate_run(chosen.run, chosen.data, chosen.split, **options, say=say)
    say(f"report: {write_report(chosen.run)}")


def predict(chosen: Namespace) -> int | None:
    """``focaldet predict``, with or without ``--compare``"""
    if chosen.labels is not None and chosen.compare is not None:
        raise InputError("--labels: cannot be combined with --compare, whose photos have labels; leave one out")
    if chosen.check_shift and (chosen.compare is not None or chosen.max_detections is not None):
        raise InputError("--check-shift: cannot be combined with --compare or --max-detections; leave one out")
    if chosen.compare is not None:
        _compare(chosen)
        return None
    if not chosen.images:
        raise InputError("predict: missing PHOTO; see focaldet predict --help")
    if chosen.split is not None:
        raise InputError("predict: --split needs --compare TRUTH; without it, name the photos")
    from focaldet.engine.load import load_selected, looking_down_to, with_shift_check
    from focaldet.runtime.cameras import camera_of
    from focaldet.runtime.predict import predict_files
    from focaldet.runtime.selection import ScoreChoices
    from focaldet.system.progress import progress_bar

    choice = ScoreChoices.parse(chosen.score)
    model, select = load_selected(chosen.run, choice, coverage=chosen.coverage, **_model_options(chosen))
    for note in select.notes:
        say(note)
    model, shift = with_shift_check(chosen.run, model) if chosen.check_shift else (model, None)
    cameras = [camera for given in chosen.images if (camera := camera_of(given))]
    files = [Path(given) for given in chosen.images if not camera_of(given)]
    options: dict[str, Any] = {"select": select, "shift": shift, "cameras": cameras}
    labels = None
    if chosen.labels is not None:
        from focaldet.data.prelabels import PreLabels, check_photos

        check_photos(files, cameras)
        labels = PreLabels(chosen.out, chosen.labels, model.class_names, select.least_chances())
        model, options["seen"] = looking_down_to(model, select.needed / 2), labels.add
    with progress_bar("windows", unit=" windows") as progress:
        faults = predict_files(model, files, chosen.out, **options, progress=progress)
    for fault in faults:
        mistake(fault)
    say(f"annotated photos and predictions.json: {chosen.out}")
    if labels is not None and labels.records:
        labels.write()
        say(f"labels to correct, with their photos: {labels.folder}; the photos, most doubtful first: {labels.list}")
    return 2 if faults else 0


def _compare(chosen: Namespace) -> None:
    if chosen.images:
        raise InputError(f"predict: got both {chosen.images[0]} and --compare, whose photos come from TRUTH; give one")
    from focaldet.engine.compare import detect_labelled
    from focaldet.report import write_errors
    from focaldet.runtime.selection import ScoreChoices

    check_out(chosen.out, "predictions")
    choice = ScoreChoices.parse(chosen.score)
    found = detect_labelled(chosen.run, chosen.compare, split=chosen.split, score=choice, **_model_options(chosen))
    page = write_errors(
        found.truth,
        found.results,
        chosen.out / "errors.html",
        score=found.least_score,
        title=f"{chosen.run.resolve().name} on {chosen.compare.resolve().name} {found.split}".rstrip(),
        notes=found.notes,
    )
    say(f"errors, worst first: {page}")


def calibrate(chosen: Namespace) -> None:
    """``focaldet calibrate``"""
    from focaldet.engine.calibrate import calibrate_run

    calibrate_run(chosen.run, chosen.data, chosen.split, say=say)


def serve(chosen: Namespace) -> None:
    """``focaldet serve``"""
    from focaldet.runtime.selection import ScoreChoices
    from focaldet.serve.server import serve

    limits = Limits(
        megabytes=chosen.max_mb, megapixels=chosen.max_megapixels, seconds=chosen.timeout, batch=chosen.batch
    )
    serve(
        chosen.model,
        host=chosen.host,
        port=chosen.port,
        score=ScoreChoices.parse(chosen.score),
        coverage=chosen.coverage,
        limits=limits,
        root_path=chosen.root_path or "",
        cors=chosen.cors,
        say=say,
        **_model_options(chosen),
    )


def export(chosen: Namespace) -> None:
    """``focaldet export``"""
    from focaldet.exporting.export import export_run
    from focaldet.exporting.int8 import Int8

    if chosen.int8 != (chosen.data is not None):
        raise InputError(
            "export: --int8 needs --data DIR, and --data needs --int8: the photos calibrate the 8-bit maps"
        )
    int8 = Int8(chosen.data, chosen.split, chosen.ap_loss) if chosen.int8 else None
    if chosen.outputs == "detections" and not chosen.nms:
        chosen.outputs = "sites"
    options = {"format": chosen.format, "outputs": chosen.outputs, "max_detections": chosen.max_detections}
    file = export_run(chosen.run, chosen.out, **options, int8=int8, say=say)
    if chosen.format == "onnx" and chosen.outputs != "raw":
        say(f"use it: focaldet predict {file} PHOTO... --out FOLDER")


def import_(chosen: Namespace) -> None:
    """``focaldet import``"""
    from focaldet.importing.published import copy_run, fetch_backbone, torchvision_file
    from focaldet.importing.run import import_checkpoint

    library, _, name = chosen.file.as_posix().partition(":")
    if library == "timm":
        fetch_backbone(name, chosen.out, say)
        return
    if library == "hf":
        say(f"use it: focaldet predict {copy_run(chosen.file, chosen.out, say)} PHOTO... --out FOLDER")
        return
    run = import_checkpoint(
        torchvision_file(name) if library == "torchvision" else chosen.file,
        chosen.out,
        class_names=chosen.class_names,
        config=chosen.config,
        batch_norm_eps=chosen.batch_norm_eps,
        say=say,
    )
    say(f"use it: focaldet predict {run} PHOTO... --out FOLDER")


def push(chosen: Namespace) -> None:
    """``focaldet push``"""
    from focaldet.report.push import push_run

    options = {"private": chosen.private, "licence": chosen.licence}
    repository = push_run(chosen.run, chosen.repository, **options, say=say)
    say(f"use it anywhere: focaldet predict hf:{repository} PHOTO... --out FOLDER")


def study(chosen: Namespace) -> None:
    """``focaldet study``"""
    from focaldet.engine.presets import with_preset
    from focaldet.report import write_report
    from focaldet.study.digits import digits_options
    from focaldet.study.run import run_study, study_folder, write_summary

    options = with_preset(vars(chosen))
    table = options.pop("table", False)
    if options.pop("digits", False):
        options, out = digits_options(options, options.get("out"))
        options["out"] = out
        if options.get("folds"):
            say("--digits: the same handwritten digits are in several folds, so AP is higher than on new ones")
    own = {name: options.pop(name) for name in STUDY_OPTIONS if name in options}
    if table:
        say(write_summary(study_folder(options, own.get("out"))))
    else:
        say(f"report: {write_report(run_study(options, say=say, **own))}")


def tune(chosen: Namespace) -> None:
    """``focaldet tune``"""
    from focaldet.engine.presets import with_preset
    from focaldet.study.tune import run_tune

    options = with_preset(vars(chosen))
    own = {name: options.pop(name) for name in ("out", "trials", "seeds", "space") if name in options}
    say(f"result.txt and all runs: {run_tune(options, say=say, **own)}")


def report(chosen: Namespace) -> None:
    """``focaldet report``"""
    from focaldet.report import write_report

    runs = chosen.runs
    say(f"report: {write_report(runs[0] if len(runs) == 1 else runs, chosen.out)}")


def data(chosen: Namespace) -> None:
    """``focaldet data check``, ``convert``, ``show`` and ``suspects``"""
    if chosen.action == "suspects":
        _suspects(chosen)
        return
    if len(chosen.data) > 1:
        raise InputError(f"data {chosen.action}: expected one folder, also got {chosen.data[1]}")
    (chosen.data,) = chosen.data
    from focaldet.data.check import check_folder
    from focaldet.data.convert import convert_folder
    from focaldet.data.folder import read_folder
    from focaldet.data.ignore import ignore_classes
    from focaldet.system.progress import progress_bar

    if chosen.action == "convert" and chosen.out is None:
        raise InputError("data convert: missing --out NEW, the folder to create")
    ignored = split_names(chosen.ignore or "")
    if chosen.ignore is not None and not ignored:
        raise InputError(f"--ignore: expected class names separated by commas, got {chosen.ignore!r}")
    with progress_bar("reading headers") as progress:
        folder = read_folder(chosen.data, rescale=chosen.rescale, progress=progress)
    folder = ignore_classes(folder, ignored)
    if chosen.action == "show":
        from focaldet.engine.show import write_sheet

        config = train_config(**{name: getattr(chosen, name) for name in SHOWN_OPTIONS})
        write_sheet(folder, config, chosen.out or Path("augmented.png"), photos=chosen.photos, say=say)
        return
    if chosen.action == "check":
        with progress_bar("decoding") as progress:
            say(check_folder(folder, size=chosen.size, progress=progress).text)
        return
    with progress_bar("writing") as progress:
        lost = convert_folder(folder, chosen.out, chosen.to, copy=chosen.copy, progress=progress)
    for line in (folder.description, folder.split_origin, *folder.notes, folder.fault_summary(), *lost):
        if line:
            say(line)
    photos = sum(map(len, folder.splits.values()))
    say(f"{chosen.out}: {photos:,} photos in {chosen.to.upper()} format")


def _suspects(chosen: Namespace) -> None:
    from focaldet.report import write_suspects
    from focaldet.study.suspects import run_suspects

    if len(chosen.data) != 2:
        raise InputError("data suspects: expected RUN DIR: a run of focaldet train, and the folder of labelled photos")
    run, folder = chosen.data
    changes = {name: value for name in ("epochs", "minutes") if (value := getattr(chosen, name)) is not None}
    judged = run_suspects(run, folder, out=chosen.out, folds=chosen.folds, changes=changes, say=say)
    page = write_suspects(
        judged.out / "suspects.html",
        judged.found,
        judged.class_names,
        title=f"Labels of {folder.resolve().name} that may be wrong",
        sentence=f"{judged.objects:,} labelled objects on {judged.photos:,} photos, each judged by a model that was "
        f"trained on other photos ({chosen.folds} folds). The model contradicts {len(judged.found):,} of them.",
        notes=judged.notes,
    )
    for kind, count in Counter(suspect.kind for _, suspect in judged.found).most_common():
        say(f"{kind}: {count:,}")
    say(f"suspects, most certain first: {page}, suspects.csv and suspects.json in {judged.out}")


def demo(chosen: Namespace) -> None:
    """``focaldet demo``"""
    from focaldet.engine.demo import run_demo
    from focaldet.report import write_report

    run = run_demo(chosen.out, minutes=chosen.minutes, seed=chosen.seed, say=say)
    say(f"report: {write_report(run)}")
    say("now try your own photos: focaldet train --data DIR")


def bench(chosen: Namespace) -> None:
    """``focaldet bench losses`` and ``focaldet bench step``"""
    if chosen.what == "step":
        from focaldet.bench.step import time_steps

        options = {name: getattr(chosen, name) for name in ("method", "size", "batch", "minutes", "device")}
        time_steps(train_config(data=str(chosen.data or ""), **options), say=say)
        return
    from focaldet.bench.losses import loss_rows, machine, table
    from focaldet.engine.devices import choose_device

    device = choose_device(chosen.device)
    say(machine(device))
    for line in table(loss_rows(compiled=chosen.compiled, memory=chosen.memory, device=device)):
        say(line)


def doctor(chosen: Namespace) -> None:
    """``focaldet doctor``"""
    from focaldet.engine.doctor import describe

    say(describe())


def _model_options(chosen: Namespace) -> dict[str, Any]:
    """Options shared by all loaders of a model."""
    if chosen.openvino and chosen.provider not in ("auto", "openvino"):
        raise InputError(f"--openvino: short for --provider openvino; leave out --provider {chosen.provider}")
    names = ("max_detections", "tile", "overlap", "device", "calibrated")
    options = {name: getattr(chosen, name) for name in names}
    return options | {"provider": "openvino" if chosen.openvino else chosen.provider}


def train_config(config: Path | None = None, **given: Any) -> "TrainConfig":
    """Build the configuration of ``focaldet train``.

    Args:
        config: ``config.yaml`` of a run; given options replace its values.
        given: options from the command line, or ``preset``, which stands for several.

    Raises:
        InputError: ``data`` is missing, or a value is out of range; the message names the option.
    """
    from focaldet.engine.config import TrainConfig, load_config
    from focaldet.engine.presets import with_preset

    given = with_preset(given)
    if config is None and given.get("resume"):
        from focaldet.engine.processes import is_first_process
        from focaldet.engine.resume import resumed_config

        if given.get("out") is None:
            raise InputError("--resume: missing --out RUN, the run folder to continue")
        resumed, lines = resumed_config(Path(given["out"]), given)
        for line in lines if is_first_process(resumed) else ():
            say(line)
        return resumed
    if config is None and "data" not in given:
        raise InputError("train: --data DIR is missing: the folder of labelled photos")
    if config is None and given.get("weights") is not None:
        from focaldet.engine.finetune import network_options

        given = network_options(Path(given["weights"]), given.get("method")) | given
    try:
        return TrainConfig(**given) if config is None else load_config(config, **given)
    except InputError as error:
        field, _, fault = str(error).removeprefix(f"{config}: ").partition(": ")
        if field in given:  # name the option that was given, not the field of the file
            raise InputError(f"{option_name(field)}: {fault}") from error
        raise
