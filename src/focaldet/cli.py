"""The command line: one parser per command, and the function in ``commands`` that does its work."""

import argparse
import sys
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from focaldet import __version__, commands
from focaldet.checks import InputError, near_name
from focaldet.command_options import (
    DEVICE_HELP,
    DEVICE_NAMES,
    MAX_DETECTIONS_HELP,
    add_data,
    add_place,
    add_selection,
    add_windows,
)
from focaldet.options import Parser, kinds_of, option_name
from focaldet.serve.limits import DEFAULTS as LIMITS
from focaldet.terminal import exit_code, say

Work = Callable[[argparse.Namespace], int | None]


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns its exit code: 0, or 2 after a user's mistake, which is reported in one line.

    >>> main(["--version"])
    focaldet 0.2.0
    0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _run(arguments), arguments[0] if arguments else "")


def _run(arguments: list[str]) -> int | None:
    command = arguments[0] if arguments else ""
    if arguments in (["--version"], ["-V"]):
        say(f"focaldet {__version__}")
        return None
    parser, parsers = build_parser()
    if command in ("-h", "--help"):
        parser.parse_args([command])
    if not command or command.startswith("-"):
        raise InputError(f"expected a command first: one of {', '.join(parsers)}; see focaldet --help")
    if command not in parsers:
        raise InputError(f"unknown command {command!r}; {near_name(command, parsers)}")
    chosen = parsers[command].read(arguments[1:])
    if command in ("train", "study", "tune", "demo"):
        from focaldet.engine.processes import check_ranks

        check_ranks()
    return WORK[command](chosen)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """Build the parser of the whole command line, and the parser of each command by name."""
    parser = Parser(
        prog="focaldet", description="Dense object detectors with focal, quality focal and distribution focal loss."
    )
    parsers = parser.add_subparsers(metavar="command", title="commands")

    def add(name: str, description: str, **options: Any) -> Parser:
        return parsers.add_parser(name, help=description, description=description, allow_abbrev=False, **options)

    # SUPPRESS: the namespace holds only given options, so that only these replace values of a file.
    _train(add("train", "train a detector on a folder of labelled photos", argument_default=argparse.SUPPRESS))
    _eval(add("eval", "measure the AP of a run on labelled photos"))
    _predict(
        add(
            "predict",
            "detect objects in photos and videos; write annotated photos and JSON, with the uncertainty of each side",
        )
    )
    _calibrate(add("calibrate", "measure on labelled photos how reliable a run's scores and box sides are"))
    _serve(add("serve", "serve a detector over HTTP: photos in, boxes as JSON out, and a web page to try it"))
    _export(add("export", "export a run as one file that needs no training code, and compare its output with the run"))
    _import(add("import", "turn a published detector of torchvision or mmdetection into a run"))
    _push(add("push", "upload a run to the Hugging Face hub, with a model card"))
    _study(
        add(
            "study",
            "train with each loss in turn, from cross entropy to the Generalized Focal Loss, and compare the results",
            argument_default=argparse.SUPPRESS,
        )
    )
    _tune(
        add(
            "tune", "search learning rate, augmentation and class loss by AP on val", argument_default=argparse.SUPPRESS
        )
    )
    _report(add("report", "write the report page of a run or a study, or a page that compares several runs"))
    add_data(
        add(
            "data",
            "check a folder of labelled photos, convert it to another format, show its training samples, or find "
            "labels that may be wrong",
        )
    )
    _demo(add("demo", "generate a small data set, train on it for a few minutes and write the report"))
    _bench(add("bench", "benchmark the losses or a training step on this machine"))
    add("doctor", "show installed packages and active kernels")
    return parser, parsers.choices


WORK: dict[str, Work] = {
    "train": commands.train,
    "eval": commands.evaluate,
    "predict": commands.predict,
    "calibrate": commands.calibrate,
    "serve": commands.serve,
    "export": commands.export,
    "import": commands.import_,
    "push": commands.push,
    "study": commands.study,
    "tune": commands.tune,
    "report": commands.report,
    "data": commands.data,
    "demo": commands.demo,
    "bench": commands.bench,
    "doctor": commands.doctor,
}
"""Command -> the function that does its work."""


def _train(command: Parser) -> None:
    command.usage = "focaldet train --data DIR [options]"
    command.add(
        "--config",
        Path,
        metavar="FILE",
        group="data",
        hidden=True,
        help="config.yaml of a run; options given here replace its values",
    )
    _add_fields(command)


def _eval(command: Parser) -> None:
    command.add("run", Path, metavar="RUN", help="run folder")
    command.add("--data", Path, metavar="DIR", required=True, help="folder of labelled photos")
    command.add("--split", str, default="test", help="train, val or test (default: test)")
    command.add("--max-detections", int, help=MAX_DETECTIONS_HELP)
    add_windows(command)
    command.add("--device", str, metavar=DEVICE_NAMES, default="auto", help=DEVICE_HELP)


def _predict(command: Parser) -> None:
    command.add("run", Path, metavar="MODEL", help="run folder, exported ONNX file, or hf:OWNER/NAME")
    command.add(
        "images",
        str,
        metavar="PHOTO",
        nargs="*",
        help="photos, folders of photos, videos, or cameras: webcam or its number, rtsp://… or http://…",
    )
    command.add(
        "--compare",
        Path,
        metavar="TRUTH",
        help="labelled folder or COCO file to use instead of PHOTO: write a page of missed objects, false alarms and "
        "confused classes",
    )
    command.add("--split", str, help="split of TRUTH: train, val or test (default: test, or val if there is no test)")
    command.add("--out", Path, metavar="DIR", default=Path("predictions"), help="output folder (default: predictions)")
    add_selection(command)
    command.add(
        "--labels",
        Literal["yolo", "voc", "coco", "labelme"],
        help="also write the boxes as labels to correct in CVAT, Label Studio or LabelMe, into OUT/labels with the "
        "photos, and OUT/doubts.csv: the photos, those with most doubtful boxes first (docs/labels.md)",
    )
    command.add("--check-shift", bool, default=False, help="warn if the photos do not resemble the calibration photos")
    command.add("--max-detections", int, help=MAX_DETECTIONS_HELP)
    add_windows(command)
    add_place(command)


def _calibrate(command: Parser) -> None:
    command.add("run", Path, metavar="RUN", help="run folder")
    command.add("--data", Path, metavar="DIR", required=True, help="labelled photos that the run was not trained on")
    command.add("--split", str, default="val", help="train, val or test (default: val)")


def _serve(command: Parser) -> None:
    command.add("model", Path, metavar="MODEL", help="run folder, exported ONNX file, or hf:OWNER/NAME")
    command.add(
        "--host",
        str,
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only)",
    )
    command.add("--port", int, default=8000, help="port; 0 picks a free one (default: 8000)")
    add_selection(command)
    command.add("--max-detections", int, help=MAX_DETECTIONS_HELP)
    add_windows(command)
    command.add("--max-mb", float, default=LIMITS.megabytes, help="largest upload, in MB (default: 20)")
    command.add(
        "--max-megapixels",
        float,
        default=LIMITS.megapixels,
        help="largest photo, in megapixels; more than 80 only in windows (default: 40)",
    )
    command.add("--timeout", float, default=LIMITS.seconds, help="seconds to receive and answer (default: 30)")
    command.add("--root-path", str, metavar="PATH", help="path prefix added by a proxy, such as /cells")
    command.add(
        "--cors", str, metavar="ORIGIN", help="web pages that may call the server: https://example.org, or * for all"
    )
    command.add("--batch", int, default=LIMITS.batch, help="largest number of photos per batch (default: 8)")
    add_place(command)


def _export(command: Parser) -> None:
    command.add("run", Path, metavar="RUN", help="run folder")
    command.add(
        "--format", Literal["onnx", "torch"], default="onnx", help="ONNX, or a torch.export program (default: onnx)"
    )
    command.add("--out", Path, metavar="FILE", help="output file (default: RUN/model.onnx, or .pt2)")
    command.add(
        "--outputs",
        Literal["detections", "raw"],
        default="detections",
        help="boxes, or the head's raw maps before the expectation over bins (default: detections)",
    )
    command.add("--nms", bool, default=True, help="include NMS; --no-nms outputs the boxes and scores of all locations")
    command.add("--max-detections", int, help=MAX_DETECTIONS_HELP)
    command.add(
        "--int8", bool, default=False, help="quantise the convolutions to 8 bits: about half the time; needs --data"
    )
    command.add(
        "--data",
        Path,
        metavar="DIR",
        help="with --int8: folder of labelled photos for calibration, preferably the training data",
    )
    command.add("--split", str, default="val", help="with --int8: split on which AP is measured (default: val)")
    command.add("--ap-loss", float, default=0.01, help="with --int8: largest accepted drop in AP (default: 0.01)")


def _import(command: Parser) -> None:
    command.add(
        "file",
        Path,
        metavar="FILE",
        help="torch checkpoint or safetensors file, or a model to download: torchvision:fcos_resnet50_fpn, "
        "hf:OWNER/NAME, or timm:BACKBONE (creates a file for --backbone-weights)",
    )
    command.add("--out", Path, metavar="RUN", help="run folder to create (default: a new one in runs)")
    command.add(
        "--class-names", Path, help="text file with one class name per line (default: those in FILE, or COCO's)"
    )
    command.add("--config", Path, help="mmdetection config (default: the one in FILE)")
    command.add(
        "--batch-norm-eps", float, metavar="EPS", help="ε of torchvision's frozen batch norms (default: torchvision's)"
    )


def _push(command: Parser) -> None:
    command.add("run", Path, metavar="RUN", help="run folder")
    command.add("repository", str, metavar="OWNER/NAME", help="repository on the hub; created if it does not exist")
    command.add("--private", bool, default=False, help="create a private repository")
    command.add(
        "--licence",
        str,
        help="licence of the weights, as the hub abbreviates it: apache-2.0, cc-by-4.0 (default: none)",
    )


def _study(command: Parser) -> None:
    from focaldet.study.chapters import CHAPTERS
    from focaldet.study.ladder import CHOSEN_HERE, RUNGS, STORY

    rungs = f"{', '.join((STORY, *CHAPTERS))}; {', '.join(RUNGS)}"
    command.usage = "focaldet study --data DIR [options]"

    def add(name: str, hint: Any, help: str, **options: Any) -> None:
        command.add(name, hint, help=help, group="study", **options)

    add(
        "--out",
        Path,
        "study folder; an existing study is continued (default: studies/<name of the data>)",
        metavar="STUDY",
    )
    add("--minutes", float, "training time per rung, in minutes (default: 10, unless --epochs is given)", metavar="MIN")
    add("--seeds", int, "trainings per rung, each with its own seed (default: 3)")
    add("--folds", int, "train each rung once per fold of the photos (3 to 100) instead, measured on that fold")
    add("--digits", bool, "study the demo's long-tailed digits, generated next to the study, instead of --data")
    add("--parallel", int, "rungs trained in parallel (default: one per four cores)")
    add("--table", bool, "print the table of the results so far, without training")
    add("--rungs", str, f"train only these rungs or chapters (default: {STORY}): {rungs}", nargs="+", metavar="RUNG")
    add("--gammas", float, "extra rungs: RetinaNet with focal loss, one per γ", nargs="+", metavar="G")
    add("--betas", float, "extra rungs: ATSS with quality focal loss, one per β", nargs="+", metavar="B")
    add("--bins", int, "extra rungs: GFL, one per number of bins per side", nargs="+", metavar="N")
    _add_fields(command, without=(*CHOSEN_HERE, "out", "minutes"))


def _tune(command: Parser) -> None:
    from focaldet.study.space import MINUTES, SEEDS, SPACE, TRIALS, USUAL

    command.usage = "focaldet tune --data DIR [options]"

    def add(name: str, hint: Any, help: str, **options: Any) -> None:
        command.add(name, hint, help=help, group="search", **options)

    add(
        "--out",
        Path,
        "search folder; an existing search is continued (default: tunes/<name of the data>)",
        metavar="DIR",
    )
    add("--minutes", float, f"time per training (default: {MINUTES:g}, unless --epochs is given)", metavar="MIN")
    add("--trials", int, f"combinations of options to try, including those of an existing search (default: {TRIALS})")
    add("--seeds", int, f"trainings per trial, each with its own seed (default: {SEEDS})")
    space = "; ".join(f"{name}: {words}" for name, (words, _) in SPACE.items())
    add("--space", str, f"options to search (default: {' '.join(USUAL)}): {space}", nargs="+", metavar="NAME")
    _add_fields(command, without=("out", "minutes", "resume", "profile", "devices", "nodes"))


def _report(command: Parser) -> None:
    command.add("runs", Path, metavar="RUN", nargs="+", help="run folders, or one study folder")
    command.add(
        "--out",
        Path,
        help="output page (default: RUN/report.html; for several runs, comparison.html next to the first)",
    )


def _demo(command: Parser) -> None:
    command.add("--out", Path, metavar="DIR", default=Path("demo"), help="output folder (default: demo)")
    command.add("--minutes", float, metavar="MIN", default=3.5, help="training time in minutes (default: 3.5)")
    command.add("--seed", int, default=0, help="random seed for data, weights and photo order (default: 0)")


def _bench(command: Parser) -> None:
    command.add(
        "what",
        Literal["losses", "step"],
        metavar="losses|step",
        help="time and memory of the losses, or where the time of a training step goes",
    )
    command.add("--compiled", bool, default=True, help="losses: also measure the baseline compiled (default: yes)")
    command.add("--memory", bool, default=True, help="losses: also measure peak memory (default: yes)")
    command.add("--data", Path, metavar="DIR", help="step: folder of labelled photos (default: generated photos)")
    command.add("--method", str, default="gfl", help="step: detector (default: gfl)")
    command.add("--size", int, metavar="PX", default=320, help="step: longer side of the image (default: 320)")
    command.add("--batch", int, default=8, help="step: images per step (default: 8)")
    command.add("--minutes", float, metavar="MIN", default=1.0, help="step: training time in minutes (default: 1)")
    command.add("--device", str, metavar=DEVICE_NAMES, default="auto", help=DEVICE_HELP)


def _add_fields(command: Parser, without: Collection[str] = ()) -> None:
    """Add an option for each field of ``TrainConfig``, grouped as there."""
    from focaldet.engine.config import TrainConfig
    from focaldet.engine.option import GROUPS
    from focaldet.engine.presets import PRESET_HELP, PRESETS

    hints = get_type_hints(TrainConfig)
    chosen = [field for field in fields(TrainConfig) if field.name not in without]
    for group in GROUPS:
        if group == "model":
            command.add("--preset", Literal[*PRESETS], help=PRESET_HELP, group=group)
        for field in (field for field in chosen if field.metadata["group"] == group):
            help, default = field.metadata["help"], field.default
            if default is not MISSING and not isinstance(default, bool) and "default:" not in help:
                help += f" (default: {'none' if default is None else default})"
            command.add(
                option_name(field.name),
                hints[field.name],
                help=help,
                group=group,
                hidden=not field.metadata["main"],
                **({"metavar": field.metadata["metavar"]} if bool not in kinds_of(hints[field.name]) else {}),
            )
