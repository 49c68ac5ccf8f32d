"""The command line: parse, one call, nothing else."""

import errno
import re
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Literal, get_type_hints

from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser, Namespace

from focaldet import __version__
from focaldet.checks import InputError, near_name

COMMANDS = ("train", "eval", "predict", "report", "data", "demo", "bench", "doctor")


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0, or 2 after a mistake of the user's, which is told in one line.

    >>> main(["--version"])
    focaldet 0.1.0
    0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["--version"], ["-V"]):
        print(f"focaldet {__version__}")
        return 0
    parser = build_parser()
    try:
        return _run(parser.parse_args(arguments), arguments) or 0
    except (InputError, ArgumentError) as error:
        print(f"focaldet: {_one_line(error, arguments)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("focaldet: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"focaldet: {error.filename or 'the run folder'}: the disk is full; free some space", file=sys.stderr)
        return 2


def build_parser() -> ArgumentParser:
    """All commands and their options."""
    parser = ArgumentParser(
        prog="focaldet",
        description="Dense object detectors with focal, quality focal and distribution focal loss.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command", title="commands")
    for name, command in _commands().items():
        commands.add_subcommand(name, command)
    return parser


def _commands() -> dict[str, ArgumentParser]:
    from focaldet.engine.config import TrainConfig

    commands = {}
    command = _command("train a detector on a folder of labelled photos")
    command.add_argument("--config", type=str, help="config.yaml of a run; options given here replace its values")
    _add_options(command, TrainConfig)
    commands["train"] = command

    command = _command("measure a run's AP on labelled photos")
    command.add_argument("run", type=Path, help="run folder")
    command.add_argument("--data", type=Path, required=True, help="folder of labelled photos")
    command.add_argument("--split", type=str, default="test", help="train, val or test")
    commands["eval"] = command

    command = _command("detect in photos: drawn pictures and JSON, with the deviation of each side")
    command.add_argument("run", type=Path, help="run folder")
    command.add_argument("images", type=Path, nargs="+", help="photos, or folders of photos")
    command.add_argument("--out", type=Path, default=Path("predictions"), help="folder to write to")
    command.add_argument("--score", type=float, default=0.3, help="least score of a box")
    commands["predict"] = command

    command = _command("write report.html of a run, or a page that compares several")
    command.add_argument("runs", type=Path, nargs="+", help="run folders")
    command.add_argument("--out", type=Path, default=None, help="the page")
    commands["report"] = command

    command = _command("look at a folder of labelled photos")
    command.add_argument(
        "action", type=Literal["check"], help="check: count images, boxes, sizes, and list every fault"
    )
    command.add_argument("data", type=Path, help="folder of labelled photos")
    command.add_argument("--size", type=int, default=320, help="longer side of the image the network sees")
    commands["data"] = command

    command = _command("make a small data set, train on it for some minutes, and write its report")
    command.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to")
    command.add_argument("--minutes", type=float, default=3.5, help="of training")
    command.add_argument("--seed", type=int, default=0)
    commands["demo"] = command

    command = _command("measure the losses beside what people use, on this machine")
    command.add_argument("what", type=Literal["losses"], help="losses: time and memory, a table row at a time")
    command.add_argument(
        "--compiled", action=ActionYesNo(no_prefix="no-"), default=True, help="torch.compile's peer too"
    )
    command.add_argument("--memory", action=ActionYesNo(no_prefix="no-"), default=True, help="peak memory too")
    commands["bench"] = command

    commands["doctor"] = _command("tell what is installed, and which kernels run")
    return commands


def _add_options(command: ArgumentParser, config: type) -> None:
    """An option for each field of a dataclass, with its line in the docstring as help."""
    lines = re.findall(r"^ {8}(\w+): (.*)$", config.__doc__ or "", re.MULTILINE)
    hints = get_type_hints(config)
    for name, text in lines:
        field = config.__dataclass_fields__[name]  # type: ignore[attr-defined]
        default = None if field.default is MISSING else field.default
        option = "--" + name.replace("_", "-")
        if hints[name] is bool:
            command.add_argument(option, action=ActionYesNo(no_prefix="no-"), default=default, help=text)
        else:
            hint = hints[name] if field.default is not MISSING else hints[name] | None
            command.add_argument(option, type=hint, default=default, help=text)


def _command(description: str) -> ArgumentParser:
    return ArgumentParser(description=description, exit_on_error=False)


def _run(options: Namespace, arguments: list[str]) -> int | None:
    command = options.command
    chosen = options[command]
    if command == "train":
        return _train(chosen, arguments)
    if command == "eval":
        from focaldet.data import read_folder
        from focaldet.engine.evaluate import evaluate_split
        from focaldet.report import write_report

        evaluate_split(chosen.run, read_folder(chosen.data), chosen.split)
        print(f"report: {write_report(chosen.run)}")
    elif command == "predict":
        from focaldet.engine.predict import predict_files

        faults = predict_files(chosen.run, chosen.images, chosen.out, score=chosen.score)
        for fault in faults:
            print(f"focaldet: {fault}", file=sys.stderr)
        print(f"drawn photos and predictions.json: {chosen.out}")
        return 2 if faults else 0
    elif command == "report":
        from focaldet.report import write_report

        runs = chosen.runs
        print(f"report: {write_report(runs[0] if len(runs) == 1 else runs, chosen.out)}")
    elif command == "data":
        from focaldet.data import check_folder, read_folder

        print(check_folder(read_folder(chosen.data), size=chosen.size).text)
    elif command == "demo":
        from focaldet.engine.demo import run_demo
        from focaldet.report import write_report

        run = run_demo(chosen.out, minutes=chosen.minutes, seed=chosen.seed)
        print(f"report: {write_report(run)}")
        print("the same with your own photos: focaldet train --data DIR")
    elif command == "bench":
        from focaldet.bench.losses import loss_rows, machine, table

        print(machine())
        for line in table(loss_rows(compiled=chosen.compiled, memory=chosen.memory)):
            print(line, flush=True)
    else:
        from focaldet.engine.doctor import describe

        print(describe())
    return None


def _train(chosen: Namespace, arguments: list[str]) -> int | None:
    from focaldet.engine.config import TrainConfig, load_config
    from focaldet.engine.processes import is_first_process
    from focaldet.engine.train import train
    from focaldet.report import write_report

    values = {key: value for key, value in chosen.as_dict().items() if key != "config"}
    if chosen.config is not None:
        # Only what was given here, be it equal to its default, replaces a value of the file.
        named = {a[2:].split("=")[0].removeprefix("no-").replace("-", "_") for a in arguments if a.startswith("--")}
        config = load_config(Path(chosen.config), **{key: value for key, value in values.items() if key in named})
    elif values["data"] is None:
        raise InputError("train: --data DIR is missing: the folder of labelled photos")
    else:
        config = TrainConfig(**values)
    run = train(config)
    if not is_first_process(config):
        return None
    print(f"report: {write_report(run)}")
    print(f"measure it on the test split: focaldet eval {run} --data {config.data} --split test")
    print(f"use it: focaldet predict {run} PHOTO... --out FOLDER")
    return None


def _one_line(error: Exception, arguments: list[str]) -> str:
    """The message on one line; for an unknown option or command, with the nearest known one."""
    text = " ".join(str(error).split())
    unknown = next((a for a in arguments if a.startswith("--") and f"{a}" in text), None)
    if "nrecognized arguments" in text and unknown is not None and arguments[0] in COMMANDS:
        known = [name for action in _commands()[arguments[0]]._actions for name in action.option_strings]
        unknown = unknown.split("=")[0]
        return f"unknown option {unknown}; {near_name(unknown, known)}"
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        return f"unknown command {arguments[0]!r}; {near_name(arguments[0], COMMANDS)}"
    return text


if __name__ == "__main__":
    sys.exit(main())
