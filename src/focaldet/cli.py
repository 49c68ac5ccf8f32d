"""The command line: parse, one call, nothing else."""

import argparse
import re
import sys
from collections.abc import Collection
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from focaldet import __version__
from focaldet.checks import InputError, near_name, split_names
from focaldet.files import check_out
from focaldet.options import Parser, option_name
from focaldet.serve.limits import DEFAULTS as LIMITS
from focaldet.serve.limits import Limits
from focaldet.terminal import exit_code, mistake, say

if TYPE_CHECKING:
    from focaldet.engine.config import TrainConfig

STUDY_OPTIONS = ("out", "seeds", "rungs", "gammas", "betas", "bins", "parallel")
"""Options of a study itself; the others are those of its rungs."""

MAX_DETECTIONS_HELP = "of a photo, best first (default: as many as the model was made for)"

OPENVINO_HELP = (
    "of an exported model, with onnxruntime-openvino: in bfloat16, several times as fast on CPUs that multiply it"
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0, or 2 after a mistake of the user's, which is told in one line.

    >>> main(["--version"])
    focaldet 0.1.0
    0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _run(*_parse(arguments)), arguments[0] if arguments else "")


def _parse(arguments: list[str]) -> tuple[str, argparse.Namespace]:
    command = arguments[0] if arguments else ""
    if arguments in (["--version"], ["-V"]):
        return command, argparse.Namespace()
    parser, commands = build_parser()
    if command in ("-h", "--help"):
        parser.parse_args([command])
    if not command or command.startswith("-"):
        raise InputError(f"expected a command first: one of {', '.join(commands)}; see focaldet --help")
    if command not in commands:
        raise InputError(f"unknown command {command!r}; {near_name(command, commands)}")
    return command, commands[command].read(arguments[1:])


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The whole command line, and the parser of each command."""
    parser = Parser(
        prog="focaldet", description="Dense object detectors with focal, quality focal and distribution focal loss."
    )
    commands = parser.add_subparsers(metavar="command", title="commands")

    def add(name: str, description: str, **options: Any) -> Parser:
        return commands.add_parser(name, help=description, description=description, allow_abbrev=False, **options)

    # Only what is given is in its namespace, so that it alone replaces a value of the file.
    command = add("train", "train a detector on a folder of labelled photos", argument_default=argparse.SUPPRESS)
    command.add("--config", Path, help="config.yaml of a run; options given here replace its values", metavar="FILE")
    _add_fields(command)

    command = add("eval", "measure a run's AP on labelled photos")
    command.add("run", Path, metavar="RUN", help="run folder")
    command.add("--data", Path, metavar="DIR", required=True, help="folder of labelled photos")
    command.add("--split", str, default="test", help="train, val or test (default: test)")
    command.add("--max-detections", int, metavar="N", help=MAX_DETECTIONS_HELP)

    command = add("predict", "detect in photos: drawn pictures and JSON, with the deviation of each side")
    command.add("run", Path, metavar="MODEL", help="run folder, or an exported ONNX file")
    command.add("images", Path, metavar="PHOTO", nargs="*", help="photos, folders of photos, or videos")
    command.add(
        "--compare",
        Path,
        metavar="TRUTH",
        help="instead of PHOTO, a labelled folder or a COCO file: a page of misses, false alarms and confusions",
    )
    command.add("--split", str, help="of TRUTH: train, val or test (default: test, or val when there is no test)")
    command.add(
        "--out", Path, metavar="DIR", default=Path("predictions"), help="folder to write to (default: predictions)"
    )
    _add_selection(command)
    command.add("--max-detections", int, metavar="N", help=MAX_DETECTIONS_HELP)
    command.add("--openvino", bool, default=False, help=OPENVINO_HELP)

    command = add(
        "calibrate", "measure on labelled photos what a run's scores and sides are worth, for predict and serve"
    )
    command.add("run", Path, metavar="RUN", help="run folder")
    command.add("--data", Path, metavar="DIR", required=True, help="labelled photos that did not train the run")
    command.add("--split", str, default="val", help="train, val or test (default: val)")

    command = add("serve", "answer photos over HTTP with boxes as JSON, and a page to try it on")
    command.add("model", Path, metavar="MODEL", help="run folder, or an exported ONNX file")
    command.add("--host", str, default="127.0.0.1", help="address to listen on (default: 127.0.0.1, itself alone)")
    command.add("--port", int, default=8000, help="0 takes a free one (default: 8000)")
    _add_selection(command)
    command.add("--max-detections", int, metavar="N", help=MAX_DETECTIONS_HELP)
    command.add("--max-mb", float, default=LIMITS.megabytes, help="of an upload (default: 20)")
    command.add("--max-megapixels", float, default=LIMITS.megapixels, help="of a photo (default: 40)")
    command.add("--timeout", float, default=LIMITS.seconds, help="seconds to receive and to answer (default: 30)")
    command.add("--root-path", str, metavar="PATH", help="below which a proxy shows it, such as /cells")
    command.add("--cors", str, metavar="ORIGIN", help="whose pages may ask from a browser: https://example.org, or *")
    command.add("--batch", int, default=LIMITS.batch, help="most photos that are detected together (default: 8)")
    command.add("--openvino", bool, default=False, help=OPENVINO_HELP)

    command = add("export", "write a run as one file that runs without training code, checked against the run")
    command.add("run", Path, metavar="RUN", help="run folder")
    command.add("--format", Literal["onnx", "torch"], default="onnx", help="ONNX, or a torch.export program")
    command.add("--out", Path, metavar="FILE", help="file to write (default: RUN/model.onnx, or .pt2)")
    command.add(
        "--outputs",
        Literal["detections", "raw"],
        default="detections",
        help="boxes, or the head's raw maps, before the expectation over bins (default: detections)",
    )
    command.add(
        "--nms", bool, default=True, help="non-maximum suppression inside; without: every site's box and scores"
    )
    command.add("--max-detections", int, metavar="N", help=MAX_DETECTIONS_HELP)
    command.add(
        "--int8", bool, default=False, help="convolutions with 8 bits, by the photos of --data: about half the time"
    )
    command.add("--data", Path, metavar="DIR", help="for --int8: folder of labelled photos, best those of the training")
    command.add("--split", str, default="val", help="for --int8: train, val or test, to measure AP on (default: val)")
    command.add("--ap-loss", float, default=0.01, help="for --int8: AP that it may cost (default: 0.01)")

    command = add("import", "make a run of a published detector of torchvision or mmdetection")
    command.add("file", Path, metavar="FILE", help="checkpoint: of torch, or safetensors")
    command.add("--out", Path, metavar="RUN", help="run folder to write (default: a new one in runs)")
    command.add("--class-names", Path, metavar="FILE", help="a name a line (default: those in FILE, or COCO's)")
    command.add("--config", Path, metavar="FILE", help="configuration of mmdetection (default: the one in FILE)")
    command.add("--batch-norm-eps", float, metavar="EPS", help="of torchvision's frozen batch norms (default: its own)")

    command = add(
        "study",
        "train every step from cross entropy to the Generalized Focal Loss alike, and measure what each changed",
        argument_default=argparse.SUPPRESS,
    )
    _add_study(command)

    command = add("report", "write report.html of a run or of a study, or a page that compares several runs")
    command.add("runs", Path, metavar="RUN", nargs="+", help="run folders, or the folder of one study")
    command.add("--out", Path, metavar="FILE", help="the page")

    command = add("data", "check a folder of labelled photos, or convert it to another layout")
    actions = Literal["check", "convert"]
    command.add("action", actions, metavar="check|convert", help="list faults and count boxes, or write a clean folder")
    command.add("data", Path, metavar="DIR", help="folder of labelled photos")
    command.add("--size", int, default=320, help="check: longer side of the image the network sees (default: 320)")
    command.add("--ignore", str, help="classes that train is to ignore, separated by commas")
    command.add("--to", Literal["coco", "yolo", "voc"], default="coco", help="convert: layout to write (default: coco)")
    command.add("--out", Path, metavar="NEW", help="convert: folder to make")
    command.add("--copy", bool, default=False, help="convert: copy the photos (default: link them where possible)")
    command.add("--rescale", bool, default=False, help="scale boxes where the labels state a scaled size of the photo")

    command = add("demo", "make a small data set, train on it for some minutes, and write its report")
    command.add("--out", Path, metavar="DIR", default=Path("demo"), help="folder to write to (default: demo)")
    command.add("--minutes", float, default=3.5, help="of training (default: 3.5)")
    command.add("--seed", int, default=0, help="of data, weights and order (default: 0)")

    command = add("bench", "measure the losses beside what people use, on this machine")
    command.add("what", Literal["losses"], metavar="losses", help="time and memory, a table row at a time")
    command.add("--compiled", bool, default=True, help="torch.compile's peer too (default: yes)")
    command.add("--memory", bool, default=True, help="peak memory too (default: yes)")

    add("doctor", "tell what is installed, and which kernels run")
    return parser, commands.choices


def _add_selection(command: Parser) -> None:
    """Options of commands that pick boxes by their scores."""
    command.add(
        "--score",
        str,
        help="least score of a box, or precision=0.95, or recall=0.9 (default: that with the best F1 of each class; "
        "0.3 for a model without a calibration)",
    )
    command.add(
        "--coverage", float, metavar="SHARE", help="add bands that contain the true box of so many objects, such as 0.9"
    )
    command.add("--calibrated", bool, default=True, help="calibrated scores; --no-calibrated: those of the network")


def _add_study(command: Parser) -> None:
    from focaldet.study.ladder import CHOSEN_HERE, LADDER

    rungs = ", ".join(rung.name for rung in LADDER)
    command.add(
        "--out",
        Path,
        metavar="STUDY",
        help="its folder; one that is there goes on (default: studies/<name of the data>)",
    )
    command.add("--minutes", float, help="of training, of each rung (default: 10, when no epochs are given)")
    command.add("--seeds", int, help="how often each rung is trained (default: 3)")
    command.add("--rungs", str, nargs="+", metavar="RUNG", help=f"some of the ladder instead of all: {rungs}")
    command.add("--gammas", float, nargs="+", metavar="GAMMA", help="extra rungs: RetinaNet with focal loss at each")
    command.add("--betas", float, nargs="+", metavar="BETA", help="extra rungs: ATSS with quality focal loss at each")
    command.add("--bins", int, nargs="+", metavar="BINS", help="extra rungs: GFL with so many bins a side")
    command.add("--parallel", int, help="rungs trained side by side (default: one for each four cores)")
    command.add("--table", bool, help="print the table of what is there, and train nothing")
    _add_fields(command, without=(*CHOSEN_HERE, "out", "minutes"))


def _add_fields(command: Parser, without: Collection[str] = ()) -> None:
    """An option for each field of the configuration, with its line in the docstring as help."""
    from focaldet.engine.config import TrainConfig

    hints = get_type_hints(TrainConfig)
    for name, line in re.findall(r"^ {8}(\w+): (.*)$", TrainConfig.__doc__ or "", re.MULTILINE):
        if name in without:
            continue
        default = TrainConfig.__dataclass_fields__[name].default
        if default is not MISSING and not isinstance(default, bool):
            line += f" (default: {'none' if default is None else default})"
        command.add(option_name(name), hints[name], help=line)


def _run(command: str, chosen: argparse.Namespace) -> int | None:
    if command in ("--version", "-V"):
        say(f"focaldet {__version__}")
        return None
    if command == "train":
        return _train(chosen)
    if command == "eval":
        from focaldet.engine.evaluate import evaluate_run
        from focaldet.report import write_report

        evaluate_run(chosen.run, chosen.data, chosen.split, max_detections=chosen.max_detections, say=say)
        say(f"report: {write_report(chosen.run)}")
    elif command == "calibrate":
        from focaldet.engine.calibrate import calibrate_run

        calibrate_run(chosen.run, chosen.data, chosen.split, say=say)
    elif command == "predict":
        if chosen.compare is not None:
            _compare(chosen)
            return None
        if not chosen.images:
            raise InputError("predict: missing PHOTO; see focaldet predict --help")
        if chosen.split is not None:
            raise InputError("predict: --split goes with --compare TRUTH; photos are given by their names")
        from focaldet.engine.load import load_selected
        from focaldet.runtime.predict import predict_files
        from focaldet.runtime.selection import ScoreChoice

        choice = ScoreChoice.parse(chosen.score)
        model, select = load_selected(chosen.run, choice, coverage=chosen.coverage, **_of_model(chosen))
        for note in select.notes:
            say(note)
        faults = predict_files(model, chosen.images, chosen.out, select=select)
        for fault in faults:
            mistake(fault)
        say(f"drawn photos and predictions.json: {chosen.out}")
        return 2 if faults else 0
    elif command == "serve":
        _serve(chosen)
    elif command == "export":
        _export(chosen)
    elif command == "import":
        from focaldet.importing.run import import_checkpoint

        run = import_checkpoint(
            chosen.file,
            chosen.out,
            class_names=chosen.class_names,
            config=chosen.config,
            batch_norm_eps=chosen.batch_norm_eps,
            say=say,
        )
        say(f"use it: focaldet predict {run} PHOTO... --out FOLDER")
    elif command == "study":
        _study(**vars(chosen))
    elif command == "report":
        from focaldet.report import write_report

        runs = chosen.runs
        say(f"report: {write_report(runs[0] if len(runs) == 1 else runs, chosen.out)}")
    elif command == "data":
        _data(chosen)
    elif command == "demo":
        from focaldet.engine.demo import run_demo
        from focaldet.report import write_report

        run = run_demo(chosen.out, minutes=chosen.minutes, seed=chosen.seed, say=say)
        say(f"report: {write_report(run)}")
        say("the same with your own photos: focaldet train --data DIR")
    elif command == "bench":
        from focaldet.bench.losses import loss_rows, machine, table

        say(machine())
        for line in table(loss_rows(compiled=chosen.compiled, memory=chosen.memory)):
            say(line)
    else:
        from focaldet.engine.doctor import describe

        say(describe())
    return None


def _data(chosen: argparse.Namespace) -> None:
    from focaldet.data import check_folder, convert_folder, ignore_classes, read_folder
    from focaldet.data.progress import progress_bar

    if chosen.action == "convert" and chosen.out is None:
        raise InputError("data convert: missing --out NEW, the folder to make")
    ignored = split_names(chosen.ignore or "")
    if chosen.ignore is not None and not ignored:
        raise InputError(f"--ignore: expected names of classes, separated by commas, got {chosen.ignore!r}")
    with progress_bar("reading headers") as progress:
        folder = read_folder(chosen.data, rescale=chosen.rescale, progress=progress)
    folder = ignore_classes(folder, ignored)
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
    say(f"{chosen.out}: {photos:,} photos in the layout of {chosen.to.upper()}")


def _of_model(chosen: argparse.Namespace) -> dict[str, Any]:
    """Options of commands that load a model, as the loaders call them."""
    return {
        "max_detections": chosen.max_detections,
        "openvino": chosen.openvino,
        "calibrated": chosen.calibrated,
    }


def _compare(chosen: argparse.Namespace) -> None:
    if chosen.images:
        raise InputError(f"predict: {chosen.images[0]} beside --compare, which takes its photos from TRUTH; give one")
    from focaldet.engine.compare import detect_labelled
    from focaldet.report import write_errors
    from focaldet.runtime.selection import ScoreChoice

    check_out(chosen.out, "predictions")
    choice = ScoreChoice.parse(chosen.score)
    found = detect_labelled(chosen.run, chosen.compare, split=chosen.split, score=choice, **_of_model(chosen))
    page = write_errors(
        found.truth,
        found.results,
        chosen.out / "errors.html",
        score=found.least_score,
        title=f"{chosen.run.resolve().name} on {chosen.compare.resolve().name} {found.split}".rstrip(),
        notes=found.notes,
    )
    say(f"errors, worst first: {page}")


def _export(chosen: argparse.Namespace) -> None:
    from focaldet.exporting.export import export_run
    from focaldet.exporting.int8 import Int8

    if chosen.int8 != (chosen.data is not None):
        raise InputError(
            "export: --int8 and --data DIR go together: the photos tell the range of each map, and the loss"
        )
    int8 = Int8(chosen.data, chosen.split, chosen.ap_loss) if chosen.int8 else None
    if chosen.outputs == "detections" and not chosen.nms:
        chosen.outputs = "sites"
    options = {"format": chosen.format, "outputs": chosen.outputs, "max_detections": chosen.max_detections}
    file = export_run(chosen.run, chosen.out, **options, int8=int8, say=say)
    if chosen.format == "onnx" and chosen.outputs != "raw":
        say(f"use it: focaldet predict {file} PHOTO... --out FOLDER")


def _study(table: bool = False, **options: Any) -> None:
    from focaldet.report import write_report
    from focaldet.study.run import run_study, study_folder, write_summary

    own = {name: options.pop(name) for name in STUDY_OPTIONS if name in options}
    if table:
        say(write_summary(study_folder(options, own.get("out"))))
    else:
        say(f"report: {write_report(run_study(options, say=say, **own))}")


def _serve(chosen: argparse.Namespace) -> None:
    from focaldet.runtime.selection import ScoreChoice
    from focaldet.serve.server import serve

    limits = Limits(
        megabytes=chosen.max_mb, megapixels=chosen.max_megapixels, seconds=chosen.timeout, batch=chosen.batch
    )
    serve(
        chosen.model,
        host=chosen.host,
        port=chosen.port,
        score=ScoreChoice.parse(chosen.score),
        coverage=chosen.coverage,
        limits=limits,
        root_path=chosen.root_path or "",
        cors=chosen.cors,
        say=say,
        **_of_model(chosen),
    )


def _train(chosen: argparse.Namespace) -> int | None:
    from focaldet.engine.interruption import Terminated
    from focaldet.engine.processes import is_first_process
    from focaldet.engine.train import train
    from focaldet.report import write_report

    config, code = _train_config(**vars(chosen)), None
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


def _train_config(config: Path | None = None, **given: Any) -> "TrainConfig":
    from focaldet.engine.config import TrainConfig, load_config

    if config is None and given.get("resume"):
        from focaldet.engine.processes import is_first_process
        from focaldet.engine.resume import resumed_config

        if given.get("out") is None:
            raise InputError("--resume: give the run folder to continue with --out RUN")
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
        if field in given:  # as it was given, not as the file would call it
            raise InputError(f"{option_name(field)}: {fault}") from error
        raise
